"""The article's flow, after: no SDK, no token, no load_dotenv. The secret is in the environment."""

from prefect import flow
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    secret_api_key: str


@flow(log_prints=True)
def main() -> None:
    print(f"secret_api_key = {Settings().secret_api_key}")


if __name__ == "__main__":
    main()
