"""All served models by name, and their replacement while they serve."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import torch

from xcrossrec.catalogue import open_catalogue
from xcrossrec.exceptions import ConfigError, UnavailableError, XCrossRecError
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.problems import Problem
from xcrossrec.serving.room import Room
from xcrossrec.serving.served import Served, load_current, replace
from xcrossrec.serving.settings import Settings, Spec

log = logging.getLogger(__name__)

FOLLOW_S, _AGAIN_S = 1.0, 30.0
"""Seconds between two checks whether another service changed a catalogue's model; and after a failed change."""


class Service:
    """Models by name, in the order in which they are listed; looks them up, replaces and closes them."""

    def __init__(self, settings: Settings, models: Sequence[Served], metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.models = {served.spec.name: served for served in models}
        self.room = Room((settings.queue + settings.batch) * len(models), metrics)
        self.draining = False
        self._replacing = {name: asyncio.Lock() for name in self.models}
        self._retired: list[Served] = []
        self._leaving: list[asyncio.Task[None]] = []
        self._failed: dict[str, float] = {}  # models that could not follow: when to try again
        for name in self.models:
            self._measure(name)
        metrics.ready.set_function(lambda: float(not self.draining and not self.behind))

    @property
    def behind(self) -> list[str]:
        """Models that could not follow another service's change: the catalogue has another model's vectors."""
        return sorted(self._failed)

    @classmethod
    def start(cls, specs: Sequence[Spec], settings: Settings) -> Service:
        """Load and warm up all models, or none.

        ConfigError: no model, or a repeated name. BundleError, DataError: an unusable bundle or catalogue.
        """
        names = [spec.name for spec in specs]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"the models' names are {names}: give at least one model, and each a name of its own")
        torch.set_num_threads(settings.processor_threads)
        metrics = Metrics()
        models: list[Served] = []
        try:
            for asked in specs:
                spec, model, manifest = load_current(asked, settings.base)
                store = open_catalogue(model, spec.catalog, keep=True, taken=[each.store.folder for each in models])
                models.append(Served(spec, model, manifest, store, settings, metrics))
                log.info("serving %s: %s over %d items", spec.name, spec.path, len(store))
        except BaseException:
            _close(models)
            raise
        return cls(settings, models, metrics)

    def _measure(self, name: str) -> None:
        """Define a model's gauges, which always read the model that has the name at the time."""
        self.metrics.waiting.labels(name).set_function(lambda: len(self.models[name].answers))
        self.metrics.texts_waiting.labels(name).set_function(lambda: len(self.models[name].answers.reading))
        self.metrics.items.labels(name).set_function(lambda: len(self.models[name].store))
        self.metrics.version.labels(name).set_function(lambda: self.models[name].store.version)

    def find(self, wanted: str | None) -> Served:
        """Find a model by its name, or by its domain's name if only one model has that domain.

        Problem: 404 for an unknown name; 422 where it is ambiguous, or where none is given and several are served.
        """
        if wanted is None:
            if len(self.models) == 1:
                return next(iter(self.models.values()))
            raise Problem(422, "model_needed", f"several models are served and none is named: give {self._choices()}")
        if wanted in self.models:
            return self.models[wanted]
        of_domain = [served for served in self.models.values() if served.domain == wanted]
        if len(of_domain) == 1:
            return of_domain[0]
        if of_domain:
            names = ", ".join(repr(served.spec.name) for served in of_domain)
            raise Problem(422, "model_needed", f"the domain {wanted!r} has several models: name one of {names}")
        raise Problem(
            404, "unknown_model", f"no model and no domain is called {wanted[:80]!r}: there is {self._choices()}"
        )

    async def replace(self, name: str, path: Path | None) -> Served:
        """Replace a model by another bundle; no request is lost.

        Problem: 404 for an unknown name, 409 while it is being replaced already. BundleError: the new bundle cannot be
        used, and the old one stays.
        """
        if name not in self.models:
            raise Problem(404, "unknown_model", f"no model is called {name[:80]!r}: there is {self._choices()}")
        if self._replacing[name].locked():
            raise Problem(409, "replacing", f"the model {name!r} is being replaced already: wait until that is done")
        async with self._replacing[name]:
            old = self.models[name]
            try:
                new = await asyncio.to_thread(replace, old, path, self.settings, self.metrics)
            except BaseException as error:
                self.metrics.reloads.labels(name, "failed").inc()
                if not isinstance(error, (XCrossRecError, asyncio.CancelledError)):
                    log.exception("replacing %s failed", name)
                raise
            self.models[name] = new
            self._failed.pop(name, None)
            old.close()  # earlier questions are still answered
            self._retired.append(old)
            self._leaving = [task for task in self._leaving if not task.done()]
            self._leaving.append(asyncio.create_task(self._let_go(old)))
            self.metrics.reloads.labels(name, "done").inc()
            log.info("%s is now %s", name, new.spec.path)
            return new

    async def _let_go(self, old: Served) -> None:
        """Free a model after its last answer; the garbage collector ignores what is left, if it did so before."""
        await asyncio.to_thread(old.join)
        self._retired.remove(old)
        del old
        if gc.get_freeze_count():
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    async def successor(self, served: Served) -> Served | None:
        """Wait until a model that is being replaced has been; return the one in its place, if there is one."""
        name = served.spec.name
        async with self._replacing[name]:
            new = self.models[name]
        if new is served:  # another service may have replaced it
            await self._follow(name)
            new = self.models[name]
        return None if new is served else new

    async def follow(self) -> None:
        """Check each second whether another service on the same catalogue changed a model, and change it here too."""
        while not self.draining:
            await asyncio.sleep(FOLLOW_S)
            for name in list(self.models):
                if self._failed.get(name, 0) <= monotonic():
                    await self._follow(name)

    async def _follow(self, name: str) -> None:
        """Change to the model whose vectors the catalogue has, if these are another's now."""
        store = self.models[name].store
        try:
            if (folder := await asyncio.to_thread(lambda: store.replaced_by)) is None:
                self._failed.pop(name, None)  # a check had failed, and nothing has changed
                return
            if self._replacing[name].locked():
                async with self._replacing[name]:
                    return
            if self.models[name].store is store:
                log.info("%s was replaced elsewhere, by %s", name, folder or "its bundle")
                await self.replace(name, Path(folder) if folder else None)
        except UnavailableError:
            log.warning("%s: the database does not answer", name)
        except XCrossRecError as error:
            self._failed[name] = monotonic() + _AGAIN_S
            log.error("%s stays as it is, and takes no writes: %s", name, error)
        except Exception:
            self._failed[name] = monotonic() + _AGAIN_S
            log.exception("%s could not follow its catalogue", name)

    async def replace_all(self) -> None:
        """Load every model's bundle again, after any current replacement; one that cannot be read stays as it is."""
        for name in list(self.models):
            while self._replacing[name].locked():  # which may have read the folder before it changed
                async with self._replacing[name]:
                    pass
            try:
                await self.replace(name, None)
            except XCrossRecError as error:
                log.error("%s stays as it is: %s", name, error)

    def close(self) -> None:
        """Answer what waits, then close the catalogues."""
        _close([*self._retired, *self.models.values()])

    def _choices(self) -> str:
        each = [f"{n!r}" + (f" (domain {s.domain!r})" if s.domain else "") for n, s in self.models.items()]
        return ", ".join(each)


def _close(models: Sequence[Served]) -> None:
    for served in models:
        served.close()
    for served in models:
        served.join()
    for served in models:  # models may share a store
        served.store.close()
