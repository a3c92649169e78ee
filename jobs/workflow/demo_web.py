"""The experiment's own demo web, where it has one: published into a folder, served on loopback while ingest runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.workflow.progress import Display
from pipeline.config.experiment import DemoWebConfig
from pipeline.errors import InputError


def publish(web: DemoWebConfig, display: Display) -> None:
    """Publish the web's sources and evaluation sets into its folder, unless they are published already."""
    from sources.world.photographs import publish_domains
    from sources.world.publish import publish_world

    folder = Path(web.folder)
    if web.kind == "domains" and not Path(web.tars).is_dir():
        raise InputError(f"web.tars: {web.tars}: no such folder; expected <domain>-train.tar and <domain>-test.tar")
    with display.stage("publish", f"the experiment's own web, in {web.folder}"):
        task = display.task("drawing" if web.kind == "world" else "publishing", "images")
        try:
            if web.kind == "world":
                publish_world(
                    folder,
                    seed=web.seed,
                    pairs=web.pairs,
                    sizes=web.sizes,
                    evaluation_images=web.evaluation_images,
                    on_progress=task,
                )
            else:
                publish_domains(folder, Path(web.tars), seed=web.seed, on_progress=task)
        except ValueError as error:
            raise InputError(f"web.{error}") from None
        except FileNotFoundError as error:
            raise InputError(f"web.tars: {error}") from None
        except OSError as error:
            raise InputError(f"web.folder: {web.folder}: cannot be written: {error.strerror or error}") from None


@contextmanager
def serve(web: DemoWebConfig | None) -> Iterator[dict[str, str]]:
    """Serve the web, if there is one; yield the mapping of its hosts to the server's address."""
    if web is None:
        yield {}
        return
    from sources.world.server import WebServer

    with WebServer(Path(web.folder)) as server:
        address = f"{server.address[0]}:{server.address[1]}"
        yield dict.fromkeys(server.hosts, address)
