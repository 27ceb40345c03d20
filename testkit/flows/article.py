"""The article's flow, before: it downloads its secrets from Doppler, with the token in a Prefect block."""

from io import StringIO

from dopplersdk import DopplerSDK
from dotenv import load_dotenv
from prefect import flow
from prefect.blocks.system import Secret
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    secret_api_key: str


def load_secrets() -> None:
    place = Secret.load("doppler-config").get()
    answer = DopplerSDK(access_token=place["access_token"]).secrets.download(
        project=place["project"], config=place["config"], format="env"
    )
    load_dotenv(stream=StringIO(answer.text))


@flow(log_prints=True)
def main() -> None:
    load_secrets()
    print(f"secret_api_key = {Settings().secret_api_key}")


if __name__ == "__main__":
    main()
