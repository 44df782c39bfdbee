"""Libraries for macOS and Windows, which cannot be run here: headers, symbols, signatures, instructions."""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from llvm_tools import UNKNOWN, disassembly, instructions, llvm
from torch import nn

import tbt_compile
from tbt_compile.codegen.library import windows_imports
from tbt_compile.codegen.library.library import compile_functions
from tbt_compile.codegen.library.link import link
from tbt_compile.codegen.target import host
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tvm_api import te, tirx
from tbt_compile.errors import LoweringError, TargetError
from tbt_compile.runtime import bound_library
from tbt_compile.runtime.compiled_module import CompiledModule

MACS = ("apple-m1", "apple-m2", "apple-m4")
PCS = ("haswell windows", "znver4 windows")
RUNTIME = {"__TVMBackendAllocWorkspace", "__TVMBackendFreeWorkspace", "__TVMBackendParallelLaunch"}
"""Pointers that TVM fills in when it loads the library, by their names."""
ERROR = "TVMFFIErrorSetRaisedFromCStrParts"
MEMORY = {"memcpy", "memmove", "memset", "memcmp"}
X = np.random.default_rng(1).standard_normal((5, 130), dtype=np.float32)


class Layers(nn.Module):
    """Quantized layers, and functions with large results, for which kernels need memory and threads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(130, 64), nn.Linear(64, 64), nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(nn.functional.gelu(self.first(x)))).softmax(-1)


def prepared(recipe: str) -> nn.Module:
    torch.manual_seed(1)
    x = torch.from_numpy(X)
    module = tbt_compile.prepare(Layers(), recipe, (x,))
    module(x)  # which sets the scales of the activations
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model for this machine, for Macs and for Windows."""
    compiled = tbt_compile.lower(prepared("2-2-8"), ["host", *MACS, *PCS])
    return compiled.save(tmp_path_factory.mktemp("systems") / "model")


def library(folder: Path, target: str) -> Path:
    spec = parse_target(target)
    return folder / f"model-{spec.mcpu}{spec.system.suffix}"


@pytest.fixture(params=MACS)
def mac(request: pytest.FixtureRequest, folder: Path) -> Path:
    return library(folder, request.param)


@pytest.fixture(params=PCS)
def pc(request: pytest.FixtureRequest, folder: Path) -> Path:
    return library(folder, request.param)


def exported_on_linux(folder: Path) -> set[str]:
    """What this machine's library exports, but for conversions of half precision that all objects have."""
    lines = llvm("llvm-nm", "-D", "--defined-only", library(folder, "host")).splitlines()
    return {line.split()[-1] for line in lines} - {"__extendhfsf2", "__truncsfhf2"}


def test_a_mac_library_is_a_dylib_for_macos_12(mac: Path) -> None:
    header = llvm("llvm-readobj", "--file-headers", mac)
    assert "Format: Mach-O arm64" in header and "FileType: DynamicLibrary" in header
    assert "MH_TWOLEVEL" in header and "MH_NOUNDEFS" not in header
    commands = llvm("llvm-objdump", "--macho", "--private-headers", mac)
    assert re.search(r"cmd LC_BUILD_VERSION\n.*\n +platform macos\n.*\n +minos 12\.0\n", commands)
    assert re.search(r"cmd LC_ID_DYLIB\n.*\n +name @rpath/model\.dylib ", commands)
    assert re.findall(r"cmd LC_LOAD_DYLIB\n.*\n +name (\S+)", commands) == ["/usr/lib/libSystem.B.dylib"]


def test_a_mac_library_exports_the_same_functions(folder: Path, mac: Path) -> None:
    lines = llvm("llvm-nm", "-g", "--defined-only", mac).splitlines()
    names = {line.split()[-1].removeprefix("_") for line in lines}
    assert names - {"__dso_handle", "_mh_dylib_header"} == exported_on_linux(folder)


def test_a_mac_library_binds_c_to_the_system_and_tvm_to_the_process(mac: Path) -> None:
    tables = llvm("llvm-objdump", "--macho", "--bind", "--lazy-bind", "--weak-bind", mac)
    bound = re.findall(r"^__DATA\S* .*?(?:pointer +0 +)?(\S+) +(\S+)$", tables, re.MULTILINE)
    by_place: dict[str, set[str]] = {}
    for place, symbol in bound:
        by_place.setdefault(place, set()).add(symbol.removeprefix("_"))
    assert by_place.pop("flat-namespace") == {ERROR}
    assert by_place.pop("libSystem") <= {*MEMORY, "dyld_stub_binder"}
    assert set().union(*by_place.values()) <= RUNTIME


def test_a_mac_library_is_signed_ad_hoc(mac: Path) -> None:
    """The system refuses code without a signature; the hash of every page has to be that of its bytes."""
    content = mac.read_bytes()
    commands = llvm("llvm-objdump", "--macho", "--private-headers", mac)
    found = re.search(r"cmd LC_CODE_SIGNATURE\n.*\n +dataoff (\d+)\n +datasize (\d+)", commands)
    assert found is not None
    start, size = int(found[1]), int(found[2])
    assert start + size == len(content)
    magic, _, blobs, kind, at = struct.unpack_from(">5I", content, start)
    assert (magic, blobs, kind) == (0xFADE0CC0, 1, 0)  # one blob: the code directory
    directory = start + at
    magic, _, _, flags, hashes, _, _, count, limit = struct.unpack_from(">9I", content, directory)
    hash_size, hash_type, _, page_bits = struct.unpack_from(">4B", content, directory + 36)
    assert (magic, hash_size, hash_type, limit) == (0xFADE0C02, 32, 2, start)
    assert flags & 0x2, "not ad hoc"
    page = 1 << page_bits
    pages = [content[offset : min(offset + page, limit)] for offset in range(0, limit, page)]
    assert count == len(pages)
    for index, code in enumerate(pages):
        place = directory + hashes + index * hash_size
        assert content[place : place + hash_size] == hashlib.sha256(code).digest()


@pytest.mark.parametrize("cpu", MACS)
def test_a_macs_instructions(folder: Path, cpu: str) -> None:
    """Dot products, from M2 on matrix products, never SVE, SME or the register that macOS keeps."""
    more = [] if cpu == "apple-m1" else ["--mattr=+i8mm,+bf16"]
    code = disassembly(library(folder, cpu), "--mcpu=apple-m1", *more)
    counts = instructions(code)
    assert counts[UNKNOWN] == 0 < counts["sdot"] + counts["sdot.4s"]
    products = sum(count for name, count in counts.items() if "mmla" in name)
    assert (products > 0) == (cpu != "apple-m1")
    assert not any(name in counts for name in ("ptrue", "whilelo", "smstart", "cntw", "rdvl"))
    assert not re.search(r"\b[xw]18\b", code)


def test_a_windows_library_is_a_dll_without_code_that_runs_at_loading(pc: Path) -> None:
    header = llvm("llvm-readobj", "--file-headers", pc)
    assert "Format: COFF-x86-64" in header and "IMAGE_FILE_MACHINE_AMD64" in header
    assert "IMAGE_FILE_DLL" in header and "AddressOfEntryPoint: 0x0\n" in header
    for protection in ("DYNAMIC_BASE", "NX_COMPAT", "HIGH_ENTROPY_VA"):
        assert f"IMAGE_DLL_CHARACTERISTICS_{protection}" in header


def test_a_windows_library_exports_the_same_functions(folder: Path, pc: Path) -> None:
    names = re.findall(r"^  Name: (\S+)", llvm("llvm-readobj", "--coff-exports", pc), re.MULTILINE)
    assert set(names) == exported_on_linux(folder)


def imports(pc: Path) -> Iterator[tuple[str, set[str]]]:
    for part in llvm("llvm-readobj", "--coff-imports", pc).split("Import {")[1:]:
        name = re.search(r"Name: (\S+)", part)
        assert name is not None
        yield name[1], set(re.findall(r"Symbol: (\S+)", part))


def test_a_windows_library_names_the_dlls_of_its_symbols(pc: Path) -> None:
    found = dict(imports(pc))
    assert found.pop("tvm_ffi.dll") == {ERROR}
    assert found.pop("VCRUNTIME140.dll") <= MEMORY
    assert found == {}


def test_the_instructions_under_windows(folder: Path) -> None:
    """Byte products of AVX2 and of VNNI; vector registers that belong to the caller are kept."""
    old = disassembly(library(folder, "haswell windows"))
    counts = instructions(old)
    assert counts["vpmaddubsw"] > 0 == counts["vpdpbusd"]
    assert "%zmm" not in old
    new = disassembly(library(folder, "znver4 windows"))
    assert instructions(new)["vpdpbusd"] > 0 and "%zmm" in new
    for code in (old, new):
        assert re.search(r"v?movaps\s+%xmm[6-9], -?\d*(0x)?[0-9a-f]*\(%r[sb]p\)", code)


_CALL = """
    .globl kept
kept:
    movq $-1, %rdx
    movq %rsp, %r8
    movq $77, %rcx
    movq $100000, %rax
    callq __chkstk
    cmpq $100000, %rax
    jne 1f
    cmpq $77, %rcx
    jne 1f
    cmpq %rsp, %r8
    jne 1f
    xorl %edx, %edx
1:  movq %rdx, %rax
    retq
"""


@pytest.mark.skipif(host.host_arch() != "x86_64", reason="the probe is code for x86")
def test_a_large_frame_touches_its_pages(tmp_path: Path) -> None:
    """The probe of the stack, called as LLVM calls it: it returns, and no register changes."""
    (tmp_path / "probe.s").write_text(windows_imports.sources()["runtime.s"])
    (tmp_path / "call.s").write_text(_CALL)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu", "-shared", "-nostdlib"]
    files = [str(tmp_path / name) for name in ("call.s", "probe.s")]
    subprocess.run([*command, "-o", str(tmp_path / "probe.so"), *files], check=True)
    assert ctypes.CDLL(str(tmp_path / "probe.so")).kept() == 0


@pytest.mark.parametrize("target", ["apple-m1", "haswell windows"])
def test_functions_of_the_c_library(target: str, tmp_path: Path) -> None:
    """Linked again they give the same bytes; Windows has no `sincosf`, which GNU code calls for a tangent."""
    x = te.placeholder((8,), name="x", dtype="float32")
    y = te.compute((8,), lambda i: te.exp(x[i]) + te.erf(x[i]) + te.tan(x[i]), name="y")
    spec = parse_target(target)
    built = compile_functions({"function": te.create_prim_func([x, y])}, spec)
    path = built.export(tmp_path / f"first{spec.system.suffix}")
    assert link([each.code() for each in built._objects], spec) == path.read_bytes()
    if target.endswith("windows"):
        assert dict(imports(path))["api-ms-win-crt-math-l1-1-0.dll"] == {"expf", "erff", "sinf", "cosf"}
    else:
        bound = llvm("llvm-objdump", "--macho", "--bind", "--lazy-bind", path)
        assert set(re.findall(r"libSystem +_(\w+)", bound)) >= {"expf", "erff"}


def test_a_function_that_windows_does_not_have_is_named() -> None:
    x = te.placeholder((8,), name="x", dtype="float32")
    y = te.compute((8,), lambda i: tirx.call_pure_extern("float32", "no_such_function", x[i]), name="y")
    built = compile_functions({"function": te.create_prim_func([x, y])}, parse_target("haswell windows"))
    with pytest.raises(LoweringError, match=r"haswell \(x86_64, Windows\) failed: .*no_such_function"):
        _ = built._linked


def test_clocks_are_refused_for_windows() -> None:
    with pytest.raises(TargetError, match=r"clock=True for haswell \(x86_64, Windows\)"):
        tbt_compile.lower(prepared("2-2-8"), "haswell windows", clock=True)
    tbt_compile.lower(prepared("2-2-8"), "apple-m1", clock=True)


def test_this_machine_chooses_its_own_build(folder: Path) -> None:
    loaded = tbt_compile.load(folder)
    assert isinstance(loaded, CompiledModule)
    assert loaded.target == parse_target("host")
    assert {target.system.name for target in loaded.targets} == {"linux", "macos", "windows"}
    assert np.isfinite(loaded(X)).all()


@pytest.mark.parametrize(
    ("machine", "chosen"), [("apple-m2", "model-apple-m2.dylib"), ("znver5 windows", "model-znver4.dll")]
)
def test_every_system_chooses_its_own_build(
    folder: Path, machine: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_target(machine)
    monkeypatch.setattr(host, "this_machine", lambda: (spec.arch, spec.system))
    monkeypatch.setattr(host, "host_features", lambda: spec.features)
    opened: list[Path] = []

    def open_instead(path: Path) -> dict[str, None]:
        opened.append(path)
        return defaultdict(lambda: None)

    monkeypatch.setattr(bound_library, "load_library", open_instead)
    tbt_compile.load(folder)
    assert opened == [folder / chosen]


def test_a_folder_for_other_systems_is_refused_here(tmp_path: Path) -> None:
    saved = tbt_compile.lower(prepared("2-2-8"), ["apple-m2", "haswell windows"]).save(tmp_path / "others")
    with pytest.raises(
        TargetError, match=r"for apple-m2 \(aarch64, macOS\), haswell \(x86_64, Windows\) and this machine is"
    ):
        tbt_compile.load(saved)
