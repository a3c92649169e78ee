"""OpenLineage run events (https://openlineage.io): START and COMPLETE of each finished job, a line each.

They lie in the store, one file for each job, in the form that OpenLineage's own file transport writes. Where the
environment configures a transport (OPENLINEAGE_URL, OPENLINEAGE_CONFIG, OPENLINEAGE__TRANSPORT…: the client's own
names), they are sent there as well.
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
"""What says that an event is ours; a URI, and no address."""


def event_path(job: str) -> str:
    """Return where a job's events lie in the store."""
    return f"lineage/{job}.jsonl"


def run_id(job: str) -> str:
    """Return the run's UUID: derived from the job's id, so that a repeated event names the same run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"cuvee:{job}"))


def events(namespace: str, row: JobRow, inputs: Sequence[str]) -> "list[RunEvent]":
    """Return a finished job's two events; `inputs` names the jobs it read, and the outputs are the tables it wrote."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState

    return [
        RunEvent(
            eventType=state,
            eventTime=at.isoformat(),
            run=Run(runId=run_id(row.job)),
            job=Job(namespace=namespace, name=f"{row.stage}.{row.name}"),
            inputs=[InputDataset(namespace=namespace, name=one) for one in inputs],
            outputs=[OutputDataset(namespace=namespace, name=one) for one in sorted(row.rows)],
            producer=PRODUCER,
        )
        for state, at in ((RunState.START, row.started), (RunState.COMPLETE, row.finished))
    ]


def record(store: Store, row: JobRow, inputs: Sequence[str]) -> None:
    """Write a finished job's events, and send them where the environment says.

    A warning says where they could not be sent: another system's failure is none of the job's.
    """
    from openlineage.client.serde import Serde

    made = events(store.root, row, inputs)
    store.write(event_path(row.job), "".join(f"{Serde.to_json(one)}\n" for one in made).encode())
    if not any(name.startswith("OPENLINEAGE_") for name in os.environ):
        return
    from openlineage.client import OpenLineageClient

    try:
        client = OpenLineageClient()
        for one in made:
            client.emit(one)
        client.close()
    except Exception as error:  # noqa: BLE001 - any transport, of anybody's
        logging.getLogger(__name__).warning(
            "cuvee: lineage of %s.%s was not sent (%s)", row.stage, row.name, type(error).__name__
        )
