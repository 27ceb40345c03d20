"""The article's flow, before: it fetches the secrets itself, with the token in a Prefect block."""

import json
import os

from dopplersdk import DopplerSDK
from dotenv import load_dotenv
from prefect import flow
from prefect.blocks.system import Secret
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    secret_api_key: str


def fetch_secrets() -> None:
    block = Secret.load("doppler-config").get()
    config = json.loads(block) if isinstance(block, str) else block
    doppler = DopplerSDK()
    doppler.set_access_token(config["access_token"])
    # Tests have a stand-in; the article has Doppler itself.
    if host := os.environ.get("DOPPLER_API_HOST"):
        doppler.set_base_url(host)
    secrets = doppler.secrets.download(
        project=config["project"], config=config["config"], format="env"
    )
    with open(".env", "w", encoding="utf-8") as env:
        env.write(secrets if isinstance(secrets, str) else secrets.decode())
    load_dotenv(".env")


@flow(log_prints=True)
def main() -> None:
    fetch_secrets()
    print(f"secret_api_key = {Settings().secret_api_key}")


if __name__ == "__main__":
    main()
