"""The command that serves models over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xcrossrec.cli.checks import check_items, check_model
from xcrossrec.cli.console import Precision, log, prepare, shows_progress, silent
from xcrossrec.exceptions import ConfigError
from xcrossrec.progress import showing
from xcrossrec.serving.settings import Settings, Spec
from xcrossrec.types import is_url

if TYPE_CHECKING:
    from xcrossrec.types import EncodingPrecision


def _setting(help_: str, name: str, **rules: Any) -> Any:
    """An option that may also be set in the environment."""
    return typer.Option(help=help_, envvar=f"XCROSSREC_{name}", show_envvar=False, **rules)


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="[NAME=]MODEL...", help="Folder of a model or an adapter; may be repeated.")
    ],
    catalog: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]DIR",
            help="A catalogue (folder, postgresql://...); or a domain or a table, beside which one is created.",
        ),
    ],
    host: Annotated[str, _setting("Address to listen on; a public one needs keys.", "HOST")] = Settings.host,
    port: Annotated[
        int | None, typer.Option(help="TCP port; 0 chooses a free one.  [default: 8000]", min=0, max=65535)
    ] = None,
    base: Annotated[
        str | None, _setting("Folder or hub name of the models' base.  [default: found by its digest]", "BASE")
    ] = None,
    log_titles: Annotated[bool, typer.Option("--log-titles", help="Log the titles and ids of histories.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen on a public address without keys.")] = False,
    precision: Precision = "fp32",
) -> None:
    """Serve models over HTTP: an API and a page.

    The API is described at /openapi.json, the page is at /. Several models need names; a catalogue without a name is
    for all of them. Keys come from the environment: XCROSSREC_API_KEYS may read, XCROSSREC_ADMIN_KEYS may also write.
    So do limits such as XCROSSREC_QUEUE and XCROSSREC_TIMEOUT_S (docs/operate.md). SIGHUP reloads the models, SIGTERM
    stops once all requests are answered.

    \b
      xcrossrec serve models/toys --catalog data/toys
      xcrossrec serve models/toys --catalog postgresql://user@host/shop
      xcrossrec serve x=models/toys lora=models/toys-lora --catalog data/toys
      xcrossrec serve toys=models/toys books=models/books --catalog toys=data/toys --catalog books=data/books
    """
    given = {key: value for key, value in locals().items() if key not in ("models", "catalog", "precision", "port")}
    given |= {} if port is None else {"port": port}
    import logging
    import os
    import signal

    specs = specs_of(models, catalog, precision)
    settings = Settings.read(os.environ, **given)
    for spec in specs:
        check_model(spec.path, base)
        check_items(spec.catalog)
    hangups: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, frame: hangups.append(number))  # it would end the process
    prepare("serve")
    from xcrossrec.serving.logs import log_as_json
    from xcrossrec.serving.server import bind
    from xcrossrec.serving.server import serve as listen
    from xcrossrec.serving.service import Service

    log_as_json(logging.INFO if shows_progress() else logging.WARNING)
    with bind(settings.host, settings.port) as listener:
        with silent(), showing(log.info):
            service = Service.start(specs, settings)
        listen(service, listener, hangups)


def specs_of(models: Sequence[str], catalogs: Sequence[str], precision: EncodingPrecision) -> list[Spec]:
    """Match models and catalogues by name (ConfigError: one without the other, or a duplicate name)."""
    of_name, shared = _named(catalogs, "catalog")
    folders, unnamed = _named(models, "model")
    for folder in unnamed:
        if folders.setdefault(name := folder.absolute().name, folder) is not folder:
            raise ConfigError(f"two models are called {name!r}: write the second as NAME={folder}")
    if len(shared) > 1:
        raise ConfigError(f"{len(shared)} catalogues have no name: write each as NAME=DIR")
    if strangers := sorted(set(of_name) - set(folders)):
        raise ConfigError(f"the catalogue {strangers[0]!r} belongs to no model: there is {', '.join(folders)}")
    specs = []
    for name, folder in folders.items():
        found = of_name.get(name) or next(iter(shared), None)
        if found is None:
            raise ConfigError(f"the model {name!r} has no catalogue: add --catalog {name}=DIR")
        specs.append(Spec(name, folder, found, precision))
    return specs


def _named(texts: Sequence[str], what: str) -> tuple[dict[str, Any], list[Any]]:
    """Parse NAME=PLACE or PLACE, a path or a database's URL; an existing path with = has no name."""
    named: dict[str, Path | str] = {}
    unnamed: list[Path | str] = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or is_url(text) or Path(text).exists():
            unnamed.append(_place(text))
        elif not name or not path or name in named:
            raise ConfigError(f"{name!r} names no {what} as NAME=PATH, or one that has a name already: give another")
        else:
            named[name] = _place(path)
    return named, unnamed


def _place(text: str) -> Path | str:
    return text if is_url(text) else Path(text)
