"""Renders templates with the code of Prefect's Kubernetes worker.

Input, a JSON document a line: {"template": …, "job_variables": …}.
Output, a JSON document a line: what the job has, or {"error": …} if the worker starts no job.
"""

import asyncio
import json
import sys
import uuid

from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration


class NoServer:
    """Stands for the client of a server that has no block and no variable."""

    def __getattr__(self, name):
        raise LookupError(name)


async def render(case):
    configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(
        case["template"], case["job_variables"], client=NoServer()
    )
    configuration.prepare_for_flow_run(
        FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="run")
    )
    container = configuration.job_manifest["spec"]["template"]["spec"]["containers"][0]
    sources = container.get("envFrom") or []
    secrets = [
        source["secretRef"]["name"]
        for source in sources
        if isinstance(source, dict)
        and isinstance((source.get("secretRef") or {}).get("name"), str)
        and not source.get("prefix")
    ]
    return {
        "namespace": configuration.namespace,
        "has_cluster_config": configuration.cluster_config is not None,
        "env": sorted(
            {entry["name"] for entry in container["env"]}
            - {name for entry in container["env"] if (name := entry["name"]).startswith("PREFECT_")}
        ),
        "secrets": secrets,
    }


for line in sys.stdin:
    try:
        result = asyncio.run(render(json.loads(line)))
    except Exception as error:  # noqa: BLE001
        result = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(result), flush=True)
