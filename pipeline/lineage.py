"""OpenLineage run events (https://openlineage.io), one file for each finished job under `lineage/`."""

import uuid
from datetime import datetime

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.serde import Serde

PRODUCER = "https://pypi.org/project/cuvee"


def run_id(job: str) -> str:
    """Return the run's UUID: derived from the job's id, so that a repeated event names the same run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"cuvee:{job}"))


def complete_event(
    namespace: str, job: str, stage: str, name: str, finished: datetime, inputs: list[str], tables: list[str]
) -> str:
    """Return a job's COMPLETE event as JSON; `inputs` names the jobs it read, `tables` what it wrote."""
    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=finished.isoformat(),
        run=Run(runId=run_id(job)),
        job=Job(namespace=namespace, name=f"{stage}.{name}"),
        inputs=[InputDataset(namespace=namespace, name=one) for one in inputs],
        outputs=[OutputDataset(namespace=namespace, name=one) for one in tables],
        producer=PRODUCER,
    )
    return str(Serde.to_json(event))
