"""The resolved plan of a job in words: what was asked for, what came of it, and where each objective ended."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.domain.spec import numbered

_TOLD_ELSEWHERE = {"name", "steps", "seconds", "init", "layer_map", "objectives", "final_loss", "validation_scores"}


class Stage(NamedTuple):
    name: str
    text: str
    facts: list[tuple[str, str]]
    objectives: list[tuple[str, str]]


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    data, plan = report["data"], report["plan"]
    counts = data["counts"]
    rows = f"{counts['train']:,} train, {counts['validation']:,} validation, {report['rows']:,} evaluated"
    if data.get("test_is_validation"):
        rows += " (the validation rows: no test file was given)"
    found = [("task", str(plan.get("task", ""))), ("rows", rows)]
    if data.get("labels"):
        found.append(("labels", f"{len(data['labels']):,}"))
    found += [
        ("texts", f"cut at {data['max_length']} tokens"),
        ("seed", str(report["seed"])),
        ("teacher", _source(plan["teacher"])),
        *(("teacher, in ensemble", _source(member)) for member in plan["teacher"].get("ensemble") or []),
        ("student", value(plan["student"])),
    ]
    found += [("from the cache", text) for text in _reused(report)]
    found += _made(report["training"].get("student", {}))
    if plan.get("target"):
        found.append(("target", value(plan["target"])))
    found += [("augmentation", value(augmentation)) for augmentation in plan.get("augmentation") or []]
    found += [("rows made", _rows_made(told)) for told in (report.get("augmentation") or {}).get("augmenters", [])]
    if plan.get("recipe"):
        found.append(("recipe", value(plan["recipe"])))
    return [*found, ("quantization", value(plan["quantization"]))]


def stages(report: dict[str, Any]) -> list[Stage]:
    taught = {stage["name"]: stage for stage in report["training"].get("stages", [])}
    return [
        _stage(stage, taught.get(stage["name"], {}), (report.get("curves") or {}).get(stage["name"], {}))
        for stage in report["plan"].get("stages") or []
    ]


def value(found: Any) -> str:
    """A block of the spec in a line. Two numbers in a list are a width that became another."""
    if isinstance(found, Mapping):
        if "schedule" in found and "start" in found:
            return _schedule(found)
        return ", ".join(f"{key.replace('_', ' ')} {value(v)}" for key, v in found.items() if v is not None and v != [])
    if isinstance(found, Sequence) and not isinstance(found, str):
        if len(found) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in found):
            return f"{found[0]} → {found[1]}"
        return ", ".join(value(v) for v in found)
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, int | float):
        return f"{found:,}" if isinstance(found, int) else f"{found:g}"
    return str(found)


def _schedule(found: Mapping[str, Any]) -> str:
    start, end = f"{found['start']:g}", "" if found.get("end") is None else f"{found['end']:g}"
    match found["schedule"]:
        case "constant":
            text = start
        case "step":
            later = (f"{v:g} from {at:.0%}" for at, v in zip(found["at"], found["values"], strict=True))
            text = f"{start}, then {', '.join(later)} of the steps"
        case kind:
            text = f"{kind} {start} → {end}"
    return text + (f" after {found['warmup']:.0%} warm-up" if found.get("warmup") else "")


def _source(teacher: Mapping[str, Any]) -> str:
    return f"{teacher['source']}:{teacher['model']}" + (f" at {teacher['revision']}" if teacher.get("revision") else "")


def _reused(report: Mapping[str, Any]) -> list[str]:
    """What an earlier job of the project had done already, and the seconds it had taken where they were written down."""

    def took(told: Mapping[str, Any]) -> str:
        return f", which took {told['seconds_saved']:,.1f} s" if told.get("seconds_saved") else ""

    fitted = [f"{name}, fitted{took(told)}" for name, told in (report.get("teachers") or {}).items() if told.get("reused")]
    labels = report.get("labels") or {}
    if count := labels.get("reused"):
        whole = count + labels["asked"]
        fitted.append(f"the teacher's answers to {count:,} of {whole:,} texts{took(labels)}")
    return fitted


def _rows_made(told: Mapping[str, Any]) -> str:
    text = f"{told['kept']:,} of {told['written']:,} that {told['type']} wrote"
    if usage := told.get("usage"):
        tokens = usage["prompt_tokens"] + usage["completion_tokens"]
        text += f"; {usage['requests']:,} requests, {tokens:,} tokens of the endpoint"
    return text


def _made(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the student or a stage says of itself: layer map, widths, vocabulary, projections."""
    found = [("layers, student ← teacher", _layers(told["layer_map"]))] if told.get("layer_map") else []
    others = (
        (key.replace("_", " "), value(v)) for key, v in told.items() if key not in _TOLD_ELSEWHERE and v not in (None, [], {})
    )
    return [*found, *others]


def _layers(layer_map: Any) -> str:
    pairs = layer_map.items() if isinstance(layer_map, Mapping) else layer_map
    return ", ".join(f"{student} ← {teacher}" for student, teacher in pairs)


def _stage(stage: Mapping[str, Any], told: Mapping[str, Any], curves: Mapping[str, Any]) -> Stage:
    text = " + ".join(o["type"] for o in stage["objectives"])
    text += f"; {stage['epochs']} epochs, learning rate {stage['learning_rate']:g}, batch {stage['batch_size']}"
    text += f", trains {value(stage['train'])}" if stage.get("train", "all") != "all" else ""
    if "steps" in told:
        text += f"; {told['steps']:,} steps, {told['seconds']:.0f} s"
    if told.get("final_loss") is not None:
        text += f", final loss {told['final_loss']:.4g}"
    curve = curves.get("values", {})
    resolved = told.get("objectives") or {}
    names = numbered([o["type"] for o in stage["objectives"]])
    pairs = zip(names, stage["objectives"], strict=True)
    objectives = [(name, _objective(name, o, resolved.get(name, {}), curve)) for name, o in pairs]
    return Stage(stage["name"], text, _made(told), objectives)


def _objective(
    name: str, objective: Mapping[str, Any], resolved: Mapping[str, Any], curve: Mapping[str, Sequence[float | None]]
) -> str:
    """What was asked for, which layers and projections came of it, and where it ended."""
    params = value({key: v for key, v in objective.items() if key != "type"})
    if resolved.get("layers"):
        params += f"; student ← teacher {_layers(resolved['layers'])}"
    params += "".join(f"; {key} {value(v)}" for key, v in resolved.items() if key != "layers" and v)
    loss, norm = (_last(curve.get(f"{name}/{part}", [])) for part in ("loss", "grad_norm"))
    told = [f"final loss {loss:.4g}"] if loss is not None else []
    told += [f"gradient norm {norm:.3g}"] if norm is not None else []
    return params + (f"; {', '.join(told)}" if told else "")


def _last(values: Sequence[float | None]) -> float | None:
    return next((v for v in reversed(values) if v is not None), None)
