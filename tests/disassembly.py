"""Reads kernels out of a built library: its table rows, and the loops of what they point to.

What lives here: a 64-bit ELF file's relocations, which show the rows of the kernel table, and
objdump's listing, of which loops are found by control flow, wherever the compiler put the blocks.
Invariant: nothing is run or loaded, and no symbol is needed, so that a stripped module or one for
another CPU will do. Formats: ELF-64 of the System V ABI (gABI 4.1, and RELR of 2018).
"""

import bisect
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

# struct fnn_row of csrc/kernel.h. What is read of it by these is checked: names are names, mr and
# nr what the engine says, pointers the beginning of functions.
OFFSET_OF = {"isa": 0, "format": 8, "mr": 24, "nr": 28, "gemm": 64, "gemm_packed": 80}

# What a kernel multiplies with, by format: SSE to AMX, then NEON. Scalar code calls fmaf.
STEPS = {
    "f32": r"vfmadd\d+[ps]s|fmla|fmadd",
    "bf16": r"vfmadd\d+[ps]s|vdpbf16ps|fmla|fmadd",
    "i8": r"tdpbusd|vpdpbusd|vpmaddwd|pmaddwd|pmullw|pmuludq|imul|smull2?|smlal2?|madd|mul",
}

RELATIVE = {62: 8, 183: 1027}  # of x86-64 and aarch64: the relocation "base + addend"
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
PREFIXES = re.compile(r"^(?:\{\w+\}|notrack|bnd|rep\w*|lock|data16|cs|ds)\s+")
BRANCH = re.compile(r"j\w+|b|b\.\w+|cbn?z|tbn?z")
VECTOR = re.compile(r"%[xyzt]mm\d+")


@dataclass(frozen=True)
class Instruction:
    """One line of a listing. target: of a jump or call, if it is in the listing's text."""

    address: int
    mnemonic: str
    operands: tuple[str, ...]
    target: int | None
    text: str

    @property
    def is_vector_store(self) -> bool:
        """A vector register to memory, whatever the encoding: AT&T syntax names the target last."""
        if self.mnemonic[:2] in ("st", "ST"):  # aarch64; a pair is str q0, q1, [sp]
            return bool(re.match(r"[{]?\s*[qdsv]\d", self.operands[0]))
        if not self.operands or self.mnemonic.startswith(("j", "call")):
            return False
        last = self.operands[-1]
        return "(" in last and any(VECTOR.match(operand) for operand in self.operands[:-1])


@dataclass(frozen=True)
class Row:
    """A row of the kernel table as it lies in the file; addresses are 0 where it has NULL."""

    isa: str
    format: str
    mr: int
    nr: int
    gemm: int
    gemm_packed: int


@dataclass(frozen=True)
class Loop:
    code: tuple[Instruction, ...]
    n_steps: int

    @property
    def stores(self) -> list[Instruction]:
        return [instruction for instruction in self.code if instruction.is_vector_store]


def split_operands(text: str) -> tuple[str, ...]:
    """At commas outside of (), [] and {}."""
    parts = re.findall(r"(?:[^,(\[{]|\([^)]*\)|\[[^\]]*\]|\{[^}]*\})+", text)
    return tuple(part.strip() for part in parts)


def parse_instruction(line: str) -> Instruction | None:
    match = INSTRUCTION.match(line)
    if not match:
        return None
    text = re.split(r"\s+#|\s*//", match[2])[0].strip()
    while prefix := PREFIXES.match(text):
        text = text[prefix.end() :]
    mnemonic, _, rest = text.partition("\t") if "\t" in text else text.partition(" ")
    rest, target = rest.strip(), None
    if BRANCH.fullmatch(mnemonic) or mnemonic in ("call", "bl"):
        goal = re.search(r"(?:^|,\s*)(?:0x)?([0-9a-f]+)(?:\s*<|$)", rest)
        target = int(goal[1], 16) if goal else None
    return Instruction(int(match[1], 16), mnemonic, split_operands(rest), target, text)


class Library:
    """A shared object. objdump: the program that knows its machine."""

    def __init__(self, path: Path, objdump: str = "objdump") -> None:
        self.file = path.read_bytes()
        self.read_headers()
        listing = run(objdump, "-d", "--no-show-raw-insn", "-j", ".text", "-j", ".plt", path)
        self.code = [
            instruction
            for line in listing.splitlines()
            if (instruction := parse_instruction(line)) is not None
        ]
        self.addresses = [instruction.address for instruction in self.code]
        frames = run(objdump, "--dwarf=frames", path)
        ranges = re.findall(r"FDE cie=\w+ pc=([0-9a-f]+)\.\.([0-9a-f]+)", frames)
        self.functions = {int(start, 16): int(end, 16) for start, end in ranges}

    def read_headers(self) -> None:
        if self.file[:5] != b"\x7fELF\x02":
            raise ValueError("not a 64-bit ELF file")
        (machine,) = struct.unpack_from("<H", self.file, 18)
        (at,) = struct.unpack_from("<Q", self.file, 32)
        size, count = struct.unpack_from("<HH", self.file, 54)
        headers = [struct.unpack_from("<IIQQQQ", self.file, at + i * size) for i in range(count)]
        self.segments = [(h[3], h[2], h[5]) for h in headers if h[0] == 1]  # address, offset, bytes
        (dynamic,) = ((h[3], h[5]) for h in headers if h[0] == 2)
        tags = dict(struct.iter_unpack("<QQ", self.bytes_at(*dynamic)))
        self.pointers: dict[int, int] = {}  # address of a pointer: what it points to
        for offset, info, addend in struct.iter_unpack("<QQq", self.table(tags, 7, 8)):
            if info & 0xFFFFFFFF == RELATIVE[machine]:
                self.pointers[offset] = addend
        self.read_relr(self.table(tags, 36, 35))

    def read_relr(self, table: bytes) -> None:
        """An even word is an address, an odd one says which of the 63 words behind it are, too."""
        base = 0
        for (word,) in struct.iter_unpack("<Q", table):
            if word % 2 == 0:
                found, base = [word], word + 8
            else:
                found = [base + 8 * i for i in range(63) if word >> (i + 1) & 1]
                base += 63 * 8
            for address in found:
                (self.pointers[address],) = struct.unpack("<Q", self.bytes_at(address, 8))

    def table(self, tags: dict[int, int], start: int, size: int) -> bytes:
        return self.bytes_at(tags[start], tags[size]) if start in tags else b""

    def bytes_at(self, address: int, n: int) -> bytes:
        for start, offset, size in self.segments:
            if start <= address < start + size:
                at = offset + address - start
                return self.file[at : at + n]
        return b""

    def string_at(self, address: int | None) -> str:
        """What is there up to a NUL, if it looks like a name."""
        found = b"" if address is None else self.bytes_at(address, 32).split(b"\0")[0]
        return found.decode() if re.fullmatch(rb"\w{1,31}", found) else ""

    def rows(self, isas: set[str], formats: set[str]) -> list[Row]:
        """Each place that points to the name of an ISA, and then to that of a format."""
        rows = []
        for address, to in sorted(self.pointers.items()):
            isa = self.string_at(to)
            number_format = self.string_at(self.pointers.get(address + OFFSET_OF["format"]))
            if isa in isas and number_format in formats:
                mr, nr = struct.unpack("<ii", self.bytes_at(address + OFFSET_OF["mr"], 8))
                gemm, packed = (
                    self.pointers.get(address + OFFSET_OF[name], 0)
                    for name in ("gemm", "gemm_packed")
                )
                rows.append(Row(isa, number_format, mr, nr, gemm, packed))
        return rows

    def k_loops(self, entry: int, number_format: str) -> list[Loop]:
        """The innermost loops with multiply-adds of the function at `entry` and of those that it
        calls. Raises KeyError if no function begins there."""
        is_step = re.compile(STEPS[number_format])
        found, seen, waiting = [], set(), [entry]
        while waiting:
            start = waiting.pop()
            if start in seen:
                continue
            seen.add(start)
            code = self.code_of(start)
            for loop in innermost_loops(code):
                n = sum(bool(is_step.fullmatch(i.mnemonic)) or "<fmaf@" in i.text for i in loop)
                if n:
                    found.append(Loop(tuple(loop), n))
            inside = {instruction.address for instruction in code}
            targets = {i.target for i in code if i.target is not None} - inside
            waiting += [self.start_of(target) for target in targets if self.start_of(target)]
        return found

    def start_of(self, address: int) -> int:
        """The function that holds the address, or 0."""
        starts = sorted(self.functions)
        start = starts[max(bisect.bisect_right(starts, address) - 1, 0)]
        return start if start <= address < self.functions[start] else 0

    def code_of(self, start: int) -> list[Instruction]:
        first = bisect.bisect_left(self.addresses, start)
        last = bisect.bisect_left(self.addresses, self.functions[start])
        return self.code[first:last]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def innermost_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Parts of the code that can be repeated and hold no smaller such part."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    successors: list[list[int]] = []
    for i, instruction in enumerate(code):
        name = instruction.mnemonic
        ends = name.startswith(("jmp", "ret", "ud2", "hlt")) or name in ("b", "br")
        following = [] if ends or i + 1 == len(code) else [i + 1]
        if BRANCH.fullmatch(name) and instruction.target in at:
            following.append(at[instruction.target])
        successors.append(following)
    loops, waiting = [], [set(range(len(code)))]
    while waiting:
        nodes = waiting.pop()
        for part in repeated_parts(nodes, successors):
            entries = {j for i in set(range(len(code))) - part for j in successors[i]} & part
            head = min(entries or part)
            # Without the jumps back to its head, what can still be repeated is inside.
            inner = [[j for j in following if j != head] for following in successors]
            if any(repeated_parts(part, inner)):
                for i in part:
                    successors[i] = inner[i]
                waiting.append(part)
            else:
                loops.append([code[i] for i in sorted(part)])
    return loops


def repeated_parts(nodes: set[int], successors: list[list[int]]) -> list[set[int]]:
    """Strongly connected components that hold an edge (R. Tarjan, 1972), within `nodes`."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    parts = []
    for root in sorted(nodes):
        if root in number:
            continue
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(successors[root]))]
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in nodes:
                    continue
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(successors[other])))
                    break
                if other in on_stack:
                    low[node] = min(low[node], number[other])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == number[node]:
                    part = set()
                    while node not in part:
                        part.add(stack.pop())
                    on_stack -= part
                    if len(part) > 1 or node in successors[node]:
                        parts.append(part)
    return parts
