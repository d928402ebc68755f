"""A recommendation in sentences, for a terminal or the top of a report."""

from analysis.labels import title
from analysis.recommend.choose import NO_OBJECTIVE
from analysis.recommend.records import Excluded, Option, Recommendation, Slack
from slim.metrics import format_value, get


def sentences(answer: Recommendation) -> tuple[str, ...]:
    """Return the answer as plain lines: first the choice, then what it rests on, then what did not count and why."""
    second = runner_up(answer)
    return (_head(answer), *basis(answer), *([f"Runner-up: {second}"] if second else []), *beside(answer))


def basis(answer: Recommendation) -> tuple[str, ...]:
    """Return what the answer rests on: the constraints, met or missed, and what is as good."""
    if answer.choice is None:
        return () if answer.nearest is None else tuple(_missed(slack) for slack in answer.nearest.misses)
    lines = [_met(slack) for slack in answer.choice.slacks]
    if answer.ties:
        lines.append(f"As good: {', '.join(answer.ties)}.")
    if answer.choice.flagged is not None:
        lines.append(f"Its measurement is flagged: {answer.choice.flagged}.")
    return tuple(lines)


def beside(answer: Recommendation) -> tuple[str, ...]:
    """Return what else belongs to the answer: which weights would change it, what did not count and what was left out, and why."""
    lines = [] if answer.choice is None else _weights(answer)
    lines += [f"{key} was not measured; {instead} stands in." for key, instead in answer.replaced.items()]
    lines += [f"Does not count: {text} ({reason})." for text, reason in answer.dropped.items()]
    if answer.unmet:
        lines.append("Misses what is asked: " + _listed(answer.unmet) + ".")
    told = tuple(each for each in answer.left_out if each.reasons != (NO_OBJECTIVE,))
    if told:
        lines.append("Could not be judged: " + _listed(told) + ".")
    return tuple(lines)


def meaning(answer: Recommendation) -> str:
    """Return what is asked for in a sentence; of a user's own objectives it is made from their names. Empty when none was measured."""
    names = [title(key) for key in answer.objectives]
    if answer.request.meaning or not names:
        return answer.request.meaning
    if len(names) == 1:
        return f"The best in {names[0]}."
    shares = [each.weight for each in answer.weights]
    if shares and max(shares) - min(shares) > 1e-9:
        names = [f"{name} ({share:.0%} of the weight)" for name, share in zip(names, shares, strict=True)]
        return f"The nearest to the best of {'; '.join(names)}."
    return f"The nearest to the best of {'; '.join(names)}: they weigh the same."


def quantity(key: str, value: float, *, signed: bool = False) -> str:
    """Return a metric's value with its unit; ``fraction`` is no unit for a person."""
    unit = get(key).unit
    text = format_value(key, value)
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{text}" + (f" {unit}" if unit and unit != "fraction" else "")


def _head(answer: Recommendation) -> str:
    if answer.choice is not None:
        of = f"of {answer.qualified} that qualify" if answer.qualified > 1 else "the only one that qualifies"
        return f"{answer.request.name}: {answer.choice.configuration} ({of}): {_values(answer.choice)}."
    if not answer.objectives:
        return f"{answer.request.name}: no recommendation, since nothing that is to be good was measured."
    if answer.nearest is None:
        return f"{answer.request.name}: nothing qualifies, and no configuration could be judged."
    option = answer.nearest.option
    return f"{answer.request.name}: nothing qualifies; the nearest is {option.configuration} ({_values(option)})."


def _values(option: Option) -> str:
    return ", ".join(f"{key} {quantity(key, value)}" for key, value in option.values.items())


def _met(slack: Slack) -> str:
    if slack.value is None or slack.bound is None or slack.slack is None:
        return f"Meets {slack.constraint}" + ("." if slack.verdict else ": it is the baseline.")
    room = f"{quantity(slack.key, slack.slack)} to spare ({slack.relative:.1%})"
    return f"Meets {slack.constraint}: {quantity(slack.key, slack.value)}, {room}."


def _missed(slack: Slack) -> str:
    if slack.value is None or slack.bound is None or slack.slack is None:
        return f"It misses {slack.constraint}: the verdict is {slack.verdict}."
    by = f"by {quantity(slack.key, -slack.slack)} ({-slack.relative:.1%} of {quantity(slack.key, slack.bound)})"
    return f"It misses {slack.constraint}: {quantity(slack.key, slack.value)}, {by}."


def runner_up(answer: Recommendation) -> str:
    """Return the next best and by how much; empty when there is none."""
    second = answer.runner_up
    if second is None:
        return ""
    differences = ", ".join(f"{key} {quantity(key, value, signed=True)}" for key, value in second.differences.items())
    if second.option.distance is not None:
        behind = f"{second.behind:.3f} farther from the ideal point"
    else:
        behind = "behind" if second.relative is None else f"{second.relative:.1%} behind"
    return f"{second.option.configuration}, {behind} ({differences})."


def _weights(answer: Recommendation) -> list[str]:
    lines = []
    for each in answer.weights:
        ends = [f"below that {each.below}"] if each.below else []
        ends += [f"above that {each.above}"] if each.above else []
        if ends:
            share = f"{each.low:.0%} to {each.high:.0%}"
            lines.append(f"Stays while {each.key} has {share} of the weight (now {each.weight:.0%}); {', '.join(ends)}.")
    if answer.weights and not lines:
        lines.append("No weight of a single objective changes the choice.")
    return lines


def _listed(excluded: tuple[Excluded, ...]) -> str:
    """Configurations by reason, so that a hundred failures of a kind make one entry."""
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for each in excluded:
        by_reason.setdefault(each.reasons, []).append(each.configuration)
    return "; ".join(f"{', '.join(names)} ({', '.join(reasons)})" for reasons, names in by_reason.items())
