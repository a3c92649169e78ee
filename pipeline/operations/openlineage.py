"""OpenLineage run events (https://openlineage.io): START and COMPLETE of each finished job, a line each.

They are stored in the store, one file per job, in the format of OpenLineage's own file transport. Where the environment
configures a transport (OPENLINEAGE_URL, OPENLINEAGE_CONFIG, OPENLINEAGE__TRANSPORT…: the client's own names), they are
sent there as well.
"""

import logging
import os
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.ledger.tables import JobRow
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent


PRODUCER = "urn:cuvee:pipeline"
"""The producer URI of Cuvée's events; it is not an address."""


def event_path(job: str) -> str:
    """Return the path of a job's events in the store."""
    return f"lineage/{job}.jsonl"


def run_id(job: str) -> str:
    """Return the run's UUID, derived from the job's id, so that a repeated event names the same run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"cuvee:{job}"))


def events(namespace: str, row: JobRow, inputs: Sequence[str]) -> "list[RunEvent]":
    """Return a finished job's two events; `inputs` names the jobs that it read; its outputs are the tables it wrote."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState

    return [
        RunEvent(
            eventType=state,
            eventTime=time.isoformat(),
            run=Run(runId=run_id(row.job)),
            job=Job(namespace=namespace, name=f"{row.stage}.{row.name}"),
            inputs=[InputDataset(namespace=namespace, name=name) for name in inputs],
            outputs=[OutputDataset(namespace=namespace, name=name) for name in sorted(row.rows)],
            producer=PRODUCER,
        )
        for state, time in ((RunState.START, row.started), (RunState.COMPLETE, row.finished))
    ]


def write_events(store: Store, row: JobRow, inputs: Sequence[str]) -> None:
    """Write a finished job's events, and send them where the environment configures a transport.

    Failure to send is a warning: the failure of another system must not fail the job.
    """
    from openlineage.client.serde import Serde

    run_events = events(store.root, row, inputs)
    store.write(event_path(row.job), "".join(f"{Serde.to_json(event)}\n" for event in run_events).encode())
    if not any(name.startswith("OPENLINEAGE_") for name in os.environ):
        return
    from openlineage.client import OpenLineageClient

    try:
        client = OpenLineageClient()
        for event in run_events:
            client.emit(event)
        client.close()
    except Exception as error:  # noqa: BLE001 - any third-party transport
        logging.getLogger(__name__).warning(
            "cuvee: lineage of %s.%s was not sent (%s)", row.stage, row.name, type(error).__name__
        )
