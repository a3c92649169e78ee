"""The command `cuvee schema`: the JSON Schema of the experiment file, for editors."""

import argparse
import json
import sys

TEXT = (
    "Print the JSON Schema of the experiment file: every section and key with its meaning, unit, default and example. "
    "An editor that is given it completes keys and marks unknown ones."
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    commands.add_parser("schema", help="print the JSON Schema of the experiment file, for editors", description=TEXT)


def answer(arguments: argparse.Namespace) -> int:
    """Print the schema; return the exit code."""
    from pipeline.config.experiment import ExperimentFile

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **ExperimentFile.model_json_schema()}
    sys.stdout.write(json.dumps(schema, indent=1) + "\n")
    return 0
