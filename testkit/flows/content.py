"""Reads values of several configs under the names that the binding gives them, and no file as a variable."""

import os

from prefect import flow
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    sqlalchemy_url: str
    etl_db_host: str


@flow(log_prints=True)
def main() -> None:
    settings = Settings()
    print(f"sqlalchemy_url = {settings.sqlalchemy_url}")
    print(f"etl_db_host = {settings.etl_db_host}")
    print(f"files in the environment: {[name for name in os.environ if name.endswith('.yml')]}")


if __name__ == "__main__":
    main()
