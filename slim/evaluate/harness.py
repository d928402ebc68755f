"""The harness's language model over one of our engines: it tokenizes and truncates as the harness's own ``hf`` backend.

Imports the harness at its top, so import it only where something is evaluated.
"""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from slim.engines import Engine, GenerationRequest, Score, ScoreRequest
from slim.engines.sharing import prefix_groups
from slim.errors import Reason, StageError
from slim.evaluate.scoring import score_in_chunks
from slim.records import OnProgress, Progress, ignore_progress

Tokens = tuple[int, ...]
Item = tuple[str, int]  # task name, document id

_ENCODED_AT_ONCE = 2048
_log = logging.getLogger(__name__)


class EngineLM(TemplateLM):  # type: ignore[misc]
    """Answers the harness's three kinds of request through an `Engine`.

    Identical requests are put to the engine once. Contexts too long are cut from the left. The semantics are those of
    ``lm_eval.models.huggingface.HFLM(max_length=max_length)`` with a tokenizer that decides itself whether to add a
    beginning-of-sequence token.

    Attributes:
        max_length: tokens the model reads for a prediction: one less than a sequence may have, as in the ``hf`` backend.
        unscored: items that could not be scored, and why.
        notes: what had to be done otherwise than the task asked, each once.
        truncated: items of which a context was cut.
        likelihoods_only: tasks whose figures do not depend on whether an answer was the most likely text; they are told that none was.
    """

    backend = "causal"

    def __init__(self, engine: Engine, tokenizer: Any, *, batch_size: int = 16, max_gen_tokens: int = 256) -> None:
        super().__init__()
        self.engine = engine
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_gen_toks = max_gen_tokens
        self.max_length = engine.info.max_model_len - 1
        self.unscored: dict[Item, str] = {}
        self.notes: dict[str, None] = {}
        self.truncated: set[Item] = set()
        self.likelihoods_only: Collection[str] = ()
        self.step = "evaluate"
        self.on_progress: OnProgress = ignore_progress
        self._device = engine.info.device

    # Tokens

    @property
    def eot_token_id(self) -> int:
        """End of text, in front of which a text without context is scored when there is no beginning-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands in for an empty context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, which the harness puts into its request cache's keys."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of one text; by default with the tokenizer's own special tokens unless the text already has them."""
        if add_special_tokens is None:
            return list(self._encode_all([string])[0])
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _encode_all(self, strings: Sequence[str]) -> list[Tokens]:
        """`tok_encode` of many texts at once, which fast tokenizers do in parallel."""
        prefix = self.tokenizer.decode(self.prefix_token_id)
        marked = [has_bos_prefix(string, prefix) for string in strings]
        encoded: dict[int, Tokens] = {}
        for has_prefix in (False, True):
            places = [place for place, mark in enumerate(marked) if mark is has_prefix]
            options = {"add_special_tokens": False} if has_prefix else {}
            for start in range(0, len(places), _ENCODED_AT_ONCE):
                some = places[start : start + _ENCODED_AT_ONCE]
                ids = self.tokenizer([strings[place] for place in some], return_attention_mask=False, **options)["input_ids"]
                encoded.update((place, tuple(tokens)) for place, tokens in zip(some, ids, strict=True))
        return [encoded[place] for place in range(len(strings))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render messages; a template that refuses a system message gets none, as in the ``hf`` backend."""
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, **options))
        except jinja2.exceptions.TemplateError:
            kept = [message for message in chat_history if message["role"] != "system"]
            if len(kept) == len(chat_history):
                raise
            self.notes["the chat template refuses system messages: left out"] = None
            return str(self.tokenizer.apply_chat_template(kept, **options))

    # Log-likelihoods

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation and whether greedy decoding would have given it."""
        pairs = self._encode_pairs([request.args for request in requests])
        greedy = any(request.task_name not in self.likelihoods_only for request in requests)
        return self._answers(pairs, requests, greedy)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return self._answers([(tuple(context), tuple(continuation)) for _, context, continuation in requests], None)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each text as a whole, in windows of `max_length` whose tokens are each predicted once."""
        windows: list[tuple[Tokens, Tokens]] = []
        owners: list[int] = []
        for owner, tokens in enumerate(self._encode_all([request.args[0] for request in requests])):
            if not tokens:
                self.unscored[requests[owner].task_name, requests[owner].doc_id] = "the text has no tokens"
            for window in get_rolling_token_windows(list(tokens), self.prefix_token_id, self.max_length, context_len=1):
                context, continuation = make_disjoint_window(window)
                windows.append((tuple(context), tuple(continuation)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        answers = self._answers(windows, [requests[owner] for owner in owners], greedy=False)
        for owner, (logprob, _) in zip(owners, answers, strict=True):
            totals[owner] += logprob
        return totals

    def _encode_pairs(self, texts: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        """Split each text into context and continuation tokens as `TemplateLM.loglikelihood`, encoding each text once."""
        stripped = sorted({context.rstrip() for context, _ in texts if context})
        contexts = dict(zip(stripped, self._encode_all(stripped), strict=True))
        pairs: list[tuple[Tokens, Tokens]] = []
        for start in range(0, len(texts), _ENCODED_AT_ONCE):
            some = texts[start : start + _ENCODED_AT_ONCE]
            whole = iter(self._encode_all([context + continuation for context, continuation in some if context]))
            for context, continuation in some:
                if context:
                    head = contexts[context.rstrip()]
                    pairs.append((head, next(whole)[len(head) :]))
                else:
                    tokens = tuple(self.tok_encode(continuation, add_special_tokens=False))
                    cut = 1 if tokens[:1] == (self.prefix_token_id,) else 0
                    pairs.append((tokens[:cut] or (self.prefix_token_id,), tokens[cut:]))
        return pairs

    def _answers(
        self, pairs: Sequence[tuple[Tokens, Tokens]], owners: Sequence[Any] | None, greedy: bool = True
    ) -> list[tuple[float, bool]]:
        """Score each distinct pair once; an item of ``owners`` whose pair cannot be scored is noted in `unscored`."""
        fitted = [self._fitted(context, continuation) for context, continuation in pairs]
        found = self._scores(dict.fromkeys(pair for pair in fitted if not isinstance(pair, str)), greedy)
        answers: list[tuple[float, bool]] = []
        for place, pair in enumerate(fitted):
            problem = pair if isinstance(pair, str) else None
            score = None if isinstance(pair, str) else found[pair]
            total = float("-inf") if score is None else sum(score.logprobs)
            if score is not None and not isfinite(total):
                problem = f"the engine gave a log-probability of {total}"
                total = float("-inf")
            if problem is not None and owners is None:
                raise StageError(Reason.EVALUATION, problem)
            if problem is not None and owners is not None:
                self.unscored.setdefault((owners[place].task_name, owners[place].doc_id), problem)
            if not isinstance(pair, str) and len(pair[0]) < len(pairs[place][0]) and owners is not None:
                self.truncated.add((owners[place].task_name, owners[place].doc_id))
            answers.append((total, greedy and score is not None and score.greedy is not None and all(score.greedy)))
        return answers

    def _scores(self, pairs: Iterable[tuple[Tokens, Tokens]], greedy: bool) -> dict[tuple[Tokens, Tokens], Score]:
        """Scores of distinct pairs: a request a context, those that begin alike together, the longest first."""
        continuations: dict[Tokens, list[Tokens]] = {}
        for context, continuation in pairs:
            continuations.setdefault(context, []).append(continuation)
        contexts = list(continuations)
        # The longest first, so that running out of memory shows at once.
        order = [contexts[place] for group in prefix_groups(contexts) for place in group.members]
        requests = [ScoreRequest(context, tuple(continuations[context]), greedy) for context in order]
        scores = score_in_chunks(self.engine, requests, self.batch_size, self.step, self.on_progress)
        return {
            (request.context, continuation): score
            for request, answers in zip(requests, scores, strict=True)
            for continuation, score in zip(request.continuations, answers, strict=True)
        }

    def _fitted(self, context: Tokens, continuation: Tokens) -> tuple[Tokens, Tokens] | str:
        """The pair with its context cut from the left where it must be, or why it cannot be scored."""
        if not continuation:
            return "an answer has no tokens of its own"
        if not context:
            return "a context has no tokens"
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            return f"an answer of {len(continuation)} tokens is longer than the context of {self.max_length}"
        return context[-room:], continuation

    # Generation

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy generations, cut before the first of the request's stop texts."""
        keys = [(request.args[0], json.dumps(request.args[1], sort_keys=True)) for request in requests]
        distinct = list(dict.fromkeys(keys))
        contexts = self._encode_all([context for context, _ in distinct])
        prepared = [
            self._generation(tokens or (self.prefix_token_id,), json.loads(options))
            for tokens, (_, options) in zip(contexts, distinct, strict=True)
        ]
        cut = {key for key, tokens, (one, _) in zip(distinct, contexts, prepared, strict=True) if len(one.prompt) < len(tokens)}
        self.truncated |= {(request.task_name, request.doc_id) for request, key in zip(requests, keys, strict=True) if key in cut}
        order = sorted(range(len(prepared)), key=lambda place: (-len(prepared[place][0].prompt), place))
        texts: dict[tuple[str, str], str] = {}
        for some in self._generation_chunks(order):
            self.on_progress(Progress(self.step, len(texts), len(distinct), "requests"))
            completions = self.engine.generate([prepared[place][0] for place in some], min(self._concurrency, len(some)))
            for place, completion in zip(some, completions, strict=True):
                texts[distinct[place]] = self._text(completion.tokens, prepared[place][1])
        self.on_progress(Progress(self.step, len(distinct), len(distinct), "requests"))
        return [texts[key] for key in keys]

    @property
    def _concurrency(self) -> int:
        return self.engine.info.max_concurrency or self.batch_size

    def _generation_chunks(self, order: Sequence[int]) -> Iterator[Sequence[int]]:
        """Calls to the engine: few on a GPU, where each one ends with a batch that runs empty; many on a CPU, for progress."""
        size = 8 * self._concurrency if self._device == "cuda" else 2 * self.batch_size
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _generation(self, context: Tokens, options: Mapping[str, Any]) -> tuple[GenerationRequest, list[str]]:
        """The engine's request for one of the harness's, and the texts that end it."""
        normal = normalize_gen_kwargs(dict(options), self.max_gen_toks)
        if normal["do_sample"]:
            self.notes[f"{self.step} asks for sampling: decoded greedily instead"] = None
        eos = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        until = [term for term in handle_stop_sequences(normal["until"], eos=eos) if term]
        room = self.max_length - normal["max_gen_toks"]
        if room < 1:
            raise StageError(
                Reason.EVALUATION,
                f"{self.step} generates up to {normal['max_gen_toks']} tokens, the context holds {self.max_length}",
            )
        return GenerationRequest(context[-room:], normal["max_gen_toks"], stop=tuple(until), token_times=False), until

    def _text(self, tokens: Tokens, until: list[str]) -> str:
        """Decode a generation; a stop text that is a special token never shows in the decoded text, so it is cut as one."""
        stops = {self.tokenizer.convert_tokens_to_ids(term) for term in until if term in self.tokenizer.all_special_tokens}
        end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return str(postprocess_generated_text(text, until, None))


def open_tokenizer(directory: Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        StageError: there is none, or it needs code that was not allowed.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise StageError(Reason.MODEL_UNAVAILABLE, f"no tokenizer in {directory}: {str(error).splitlines()[0]}") from error
