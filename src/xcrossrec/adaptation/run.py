"""The whole job: fit what the minutes allow, choose, report, and leave a folder that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import polars as pl
from pydantic import BaseModel, TypeAdapter, ValidationError

from xcrossrec._version import __version__
from xcrossrec.adaptation.after import parts_below
from xcrossrec.adaptation.candidates import BASE, BOUGHT, LEAST_TRAINED, Made, Maker, Plan, alone, mean_of
from xcrossrec.adaptation.choice import choose, difference, gain, score, verdict
from xcrossrec.adaptation.decision import GIVEN, WORK, Candidate, Decision, Source, Target, Users, check_run
from xcrossrec.adaptation.judge import Judge
from xcrossrec.adaptation.report import write_report
from xcrossrec.adaptation.shop import MODEL, Clock, Fitted, Form, Missing, Pace, Shop, log, whole_ndcg
from xcrossrec.adaptation.sources import AnySource, Given, read_sources, ready
from xcrossrec.arguments import checked
from xcrossrec.copurchase import user_hash
from xcrossrec.data import read_domain
from xcrossrec.data.domain import Domain
from xcrossrec.data.store import read_parquet
from xcrossrec.engine import Engine
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.metrics.ranking import METRICS
from xcrossrec.models import bundle
from xcrossrec.models.adapters import base_of, read_manifest
from xcrossrec.models.base import DEFAULT_BASE, load_base
from xcrossrec.models.purchases import TABLE
from xcrossrec.progress import stage
from xcrossrec.recommender.learn import forget_all
from xcrossrec.replacing import claimed, replace_text, replacing_folder
from xcrossrec.scoring import Scorer
from xcrossrec.training.processes import refuse_idle_gpus
from xcrossrec.types import ITEM, USER

SOURCES = "sources"
_JUDGED, _PACE = "judged.json", "pace.json"
_FOR_SOURCES = 0.5
"""Share of the minutes left that the trainings of missing sources may take, all together."""


@checked
def adapt(
    target: Domain | Path | str,
    sources: Sequence[AnySource] | None = None,
    *,
    out: Path | str,
    minutes: float = 30.0,
    base: str | None = None,
    seed: int = 0,
    add_sources: Sequence[AnySource] = (),
    drop_sources: Sequence[str] = (),
    plan: Plan | None = None,
    engine: Engine | None = None,
) -> Decision:
    """Decide what to ship for a new category, and leave it in a folder.

    Candidates are fitted on the train users, cheapest first, as the minutes allow; one is chosen on the validation
    users (:func:`xcrossrec.adaptation.choice.choose`), and what it is worth is measured on the test users. What was
    fitted before in the same folder is not fitted again.

    Args:
        target: the new category: a domain, or its folder.
        sources: established categories: domains, whose adapters are trained and kept, or adapters; may be none. None
            takes those that the folder was made with before.
        out: the folder.
        minutes: that all may take. What would take longer than is left is skipped, and named.
        base: folder or name of the base; None takes that of the adapters given, or the embedded one.
        seed: of every draw.
        add_sources: beside those of before.
        drop_sources: names, or folders, of those of before that are left out now.
        plan: how trainings differ from the usual ones.
        engine: where the candidates that are trained on the target are trained, which do not depend on each other; None
            is this process, one after the other. A cluster's machines find sources, base and ``out`` at the same paths.

    Returns:
        what ``out/decision.json`` holds; ``out/model`` is what was chosen.

    Raises:
        DataError: no users to fit, choose or report on, customers who were forgotten in ``out/model``, or a folder that
            holds something else.
        ConfigError: no minutes, a negative seed, several GPUs visible, a source that is the target, two of one name, or
            one to drop that is not there.
        BundleError: a source that is neither a domain nor an adapter.
        ModelError: the base cannot be loaded, or nothing can be fitted.
        StorageError: the disk refuses.
    """
    check_run(Path(out), minutes)
    if seed < 0:
        raise ConfigError(f"seed is {seed}: give 0 or more")
    refuse_idle_gpus(shared=False)
    clock, out, plan = Clock(minutes), Path(out), plan or Plan()
    domain = target if isinstance(target, Domain) else read_domain(target)
    _check_users(domain)
    _check_forgotten(domain, out / MODEL)
    if (before := _before(out)).target not in ("", domain.name):
        raise ConfigError(f"{out} belongs to the target {before.target!r}, not {domain.name!r}: choose another --out")
    given = read_sources(_wanted(out, sources, add_sources, drop_sources), domain, out / SOURCES)
    adapters = [each.folder for each in given if each.domain is None]
    base = base or (base_of(adapters).name if adapters else DEFAULT_BASE)
    facts = {"base": load_base(base).digest, "plan": asdict(plan)}
    with claimed(out / WORK), stage(f"adapting to {domain.name}", "candidates") as bar:
        now = _Before(target=domain.name, sources={each.name: each.path for each in given})
        replace_text(out / WORK / GIVEN, now.model_dump_json())
        shop = Shop(domain, out / WORK, seed=seed, clock=clock, bar=bar, facts=facts)
        shop.pace, shop.planned = _pace(out), 9 + 2 * len(given)
        maker = Maker(shop, base, plan, engine)
        made, judged = _fit_all(maker, given)
        replace_text(out / WORK / _PACE, json.dumps(asdict(shop.pace)))
        decision = _decide(shop, judged, "" if isinstance(target, Domain) else str(target))
        _ship(shop.fitted[decision.chosen].model, out / MODEL)
        decision.write(out)
        for more in parts_below(maker, made, decision, [each.domain for each in given if each.domain is not None], out):
            decision = decision.model_copy(update=more)
            decision.write(out)
            write_report(out)
    return decision


def _check_users(domain: Domain) -> None:
    """Refuse a target on which nothing can be fitted, chosen or reported."""
    for split, what in (("train", "fit on"), ("validation", "choose on"), ("test", "report on")):
        if split not in domain.splits or not len(domain.sequences(split)):
            raise DataError(
                f"target {domain.name!r} has no users to {what}: its {split} split has 0 with two purchases or more; "
                "import more purchases (each customer's last two are held out), or use another --split"
            )


def _forgotten(model: Path) -> list[str]:
    """Hashes of the customers whom the model of before, if there is one, was made to forget."""
    return list(read_manifest(model).get(bundle.FORGOTTEN, ()))


def _check_forgotten(domain: Domain, model: Path) -> None:
    """Refuse a target that would bring customers back who were forgotten in the model of before."""
    if gone := set(_forgotten(model)):
        known = pl.concat([frame.select(USER).unique() for frame in domain.interactions.values()])[USER].unique().sort()
        if back := [user for user in known if user_hash(user) in gone]:
            raise DataError(
                f"target {domain.name!r} has {len(back)} of the customers who were forgotten in {model} "
                f"({back[0]!r} first): import it again without them (--where), or choose another --out"
            )


def _ship(chosen: Path, place: Path) -> None:
    """Put a copy of the chosen model in the place of the one before, whose forgotten customers stay so; and say how
    many purchases only that one knew."""
    forgotten, before = _forgotten(place), _bought(place)
    with replacing_folder(place) as folder:
        shutil.copytree(chosen, folder, dirs_exist_ok=True)
        bundle.write_manifest(folder, bundle.read_bundle_manifest(folder), forgotten)
    forget_all(place, forgotten)  # who was so meanwhile
    if lost := before.join(_bought(place), on=before.columns, how="anti").height:
        log.warning("the former %s knew %d more purchases, from `learn`: let it learn their files again", place, lost)


def _bought(model: Path) -> pl.DataFrame:
    tables = [read_parquet(path, remedy="delete the model") for path in model.glob(f"*/{TABLE}")]
    return pl.concat([pl.DataFrame(schema={USER: pl.String, ITEM: pl.String}), *tables])


class _Before(BaseModel):
    """What a folder was made with before: the target's name, and the sources' paths by name (empty: in memory)."""

    target: str = ""
    sources: dict[str, str] = {}


def _before(out: Path) -> _Before:
    place = out / WORK / GIVEN
    if not place.exists():
        return _Before()
    try:
        return _Before.model_validate_json(place.read_bytes())
    except ValidationError as error:
        raise BundleError(f"{place} is damaged: delete it, and name the sources again with --source") from error


def _wanted(
    out: Path, sources: Sequence[AnySource] | None, added: Sequence[AnySource], dropped: Sequence[str]
) -> list[AnySource]:
    """The sources as they are given, or those of before with some more or less."""
    before = _before(out).sources
    if sources is not None:
        return [*sources, *added]
    places = {name: str(Path(name).resolve()) for name in dropped}
    for name, place in places.items():
        if name not in before and place not in before.values():
            raise ConfigError(f"no source {name!r} to drop: {out} has {', '.join(before) or 'none'}")
    gone = {*places, *places.values()}
    kept = {name: path for name, path in before.items() if name not in gone and path not in gone}
    if lost := [name for name, path in kept.items() if not path]:
        raise ConfigError(f"source {lost[0]!r} was given in memory before: give all sources again")
    if lost := [name for name, path in kept.items() if not Path(path).exists()]:
        raise ConfigError(
            f"source {lost[0]!r} is no longer at {kept[lost[0]]}: leave it out (--drop-source {lost[0]}), and if it "
            "was moved, give its new place (--add-source)"
        )
    new = [each for each in added if isinstance(each, Domain) or str(Path(each).resolve()) not in kept.values()]
    return [*kept.values(), *new]


def _pace(out: Path) -> Pace:
    with suppress(OSError, ValueError, TypeError):
        return Pace(**json.loads((out / WORK / _PACE).read_text(encoding="utf-8")))
    return Pace()


def _fit_all(maker: Maker, given: Sequence[Given]) -> tuple[list[Made], list[Source]]:
    """Fit everything that the minutes allow; give the adapters used, and the verdicts on the sources."""
    shop = maker.shop
    maker.popularity()
    base = maker.text(BASE)
    if not shop.fitted:
        why = next((each.why for each in shop.found.values() if isinstance(each, Missing)), "")
        raise ModelError(f"nothing could be fitted to {shop.domain.name!r}, not even bestsellers: {why}")
    made: list[Made] = []
    for number, each in enumerate(given):
        left, after = shop.clock.left(), maker.text_s() * (len(made) + 1)  # it must be read, too
        share = min(left * _FOR_SOURCES / (len(given) - number), left - after)
        if (one := ready(each, shop, maker.base, maker.plan, share)) is None:
            why = "its training does not fit into the time left: give more --minutes, or its adapter"
            shop.skip(alone(Made(each.name, each.folder, "")), why)
        else:
            made.append(one)
    judged = _judged(maker, base, made, given)
    unused = {each.name for each in judged if not each.used}
    used = [one for one in made if alone(one).name in shop.fitted and one.name not in unused]
    if len(used) > 1:
        maker.text(mean_of(used), used)
    if len(shop.users) < LEAST_TRAINED:
        why = f"needs {LEAST_TRAINED} users, has {len(shop.users)}"
        shop.skip(Form("lora", "a LoRA on the target alone"), why)
        return used, judged
    ndcg = {one.name: whole_ndcg(shop.fitted[alone(one).name].choose).mean() for one in used}
    trainings = maker.trainings(used, max(used, key=lambda one: ndcg[one.name]) if used else None)
    maker.train_ahead(trainings)
    for training in trainings:
        maker.fit(training)
    return used, judged


def _judged(maker: Maker, base: Scorer | None, made: Sequence[Made], given: Sequence[Given]) -> list[Source]:
    """Fit each source alone and judge which help, as far as the minutes allow; verdicts on the same sources are
    reused."""
    shop, place = maker.shop, maker.shop.work / _JUDGED
    key = shop.key(Form("sources", "", made_of=tuple(each.digest for each in made)))
    many = TypeAdapter(dict[str, list[Source]])
    known: list[Source] | None = None
    with suppress(OSError, ValidationError):
        known = many.validate_json(place.read_bytes()).get(key)
    judge, asked = Judge(shop.domain, shop.seed), []
    for each in made:
        scorer = maker.text(alone(each), [each])
        if known is None and alone(each).name in shop.fitted and (scorer := scorer or maker.again([each])):
            judge.ask(each.name, scorer)
            asked.append(each)
    if known is not None or not asked or not (base := base or maker.again()):
        return known or []
    judge.ask("", base)
    found = judge.described(asked, {each.name: each.domain for each in given if each.domain is not None})
    for source in found:
        log.info("source %s: %s, %s", source.name, source.helps if source.used else "left out", source.why)
    if len(asked) == len(made):
        replace_text(place, many.dump_json({key: found}).decode())
    return found


def _decide(shop: Shop, judged: Sequence[Source], folder: str) -> Decision:
    """Choose on the users set aside to choose, and report on the others."""
    choosing, reporting = shop.choosing(), shop.reporting()
    forms = {name: each.form for name, each in shop.fitted.items()}
    averages = [name for name, form in forms.items() if form.simple and len(form.sources) > 1]
    chosen = choose(choosing, {name: form.level for name, form in forms.items()}, averages, shop.seed)
    simple = [name for name, each in shop.fitted.items() if each.form.simple]
    best = max(simple, key=lambda name: choosing[name].mean())
    same = {chosen.removesuffix(BOUGHT), chosen.removesuffix(BOUGHT) + BOUGHT}  # its text, with and without purchases
    over = max((name for name in simple if name not in same), key=lambda name: choosing[name].mean(), default=chosen)
    found = gain(reporting, chosen, over)
    told = tuple(_candidate(shop, each, chosen) for each in shop.found.values())
    others = {each.label: each.minus_chosen for each in told if each.minus_chosen and each.name != chosen}
    of, domain = shop.fitted[chosen], shop.domain
    said = verdict(
        of.form.label, others, shop.fitted[over].form.label, found, reporting[chosen].size, reporting[chosen].mean()
    )
    users = Users(fit=len(shop.users), choose=choosing[chosen].size, report=reporting[chosen].size)
    return Decision(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=shop.seed,
        simulated=bool(domain.manifest.get("simulated", False)),
        target=Target(
            name=domain.name,
            items=domain.items.height,
            purchases=sum(map(len, shop.buyers.rows)),
            users=users,
            fingerprint=domain.fingerprint,
            folder=folder,
        ),
        candidates=told,
        chosen=chosen,
        simplest=best,
        gain=found,
        verdict=said,
        sources=tuple(judged),
    )


def _candidate(shop: Shop, each: Fitted | Missing, chosen: str) -> Candidate:
    form = each.form
    told = partial(Candidate, name=form.name, label=form.label, sources=form.sources, simple=form.simple)
    if isinstance(each, Missing):
        return told(status=each.status, why=each.why, seconds=each.seconds)
    frame, reporting = each.report.of("full"), shop.reporting()
    return told(
        status="fitted",
        seconds=round(each.seconds, 2),
        memory_mb=round(each.memory_mb, 1),
        choose=score(whole_ndcg(each.choose)),
        report={name: score(frame[name].to_numpy()) for name in METRICS},
        minus_chosen=difference(reporting[form.name] - reporting[chosen]),
    )
