"""All changes of a source file in one text: each is a second body of its function, which a number chooses
when the program runs. So a package is built once for a thousand changes."""

import re

# The number of the change that is in force; 0 is none. It stands in the environment, or in the program itself:
# not every caller of a program hands an environment on.
SWITCH = """
/// Which change of a body is in force.
#[doc(hidden)]
pub fn switched() -> u32 {
    static STAMP: [u8; 16] = *b"switched:       ";
    static NUMBER: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
        let stamped = std::hint::black_box(&STAMP)[9..].trim_ascii();
        let given = std::env::var("SWITCHED").ok();
        let text = given.as_deref().or(std::str::from_utf8(stamped).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    });
    *NUMBER
}
"""


def stamped(program, number):
    """The content of a program with this change in force."""
    return program.replace(b"switched:       ", b"switched:%-7d" % number)


TOKEN = re.compile(r"""//[^\n]* | /\*.*?\*/ | b?r(\#*)".*?"\1 | b?"(?:\\.|[^"\\])*" | b?'(?:\\.[^']*|[^\\'])' | [{}]""",
                   re.X | re.S)


class File:
    """A source file, and where its changes come to lie in what is made of it."""

    def __init__(self, text, changes):
        """`changes` by their numbers, as cargo-mutants lists them."""
        self.text = text
        self.begins = [0]
        for line in text.splitlines(keepends=True):
            self.begins.append(self.begins[-1] + len(line))
        self.changes = changes
        self.alone = set()  # what cannot be chosen at run time
        self.bodies = {}  # the braces of a body: its numbers
        for number, change in changes.items():
            body = self.body(change["function"])
            if body:
                self.bodies.setdefault(body, []).append(number)
            else:
                self.alone.add(number)
        self.pieces, self.line = [], 1
        self.places = {}  # number: its lines in the result
        self.functions = []  # the lines of a body with all its variants, and their numbers

    def at(self, place):
        return self.begins[place["line"] - 1] + place["column"] - 1

    def body(self, function):
        """Where the braces of a function's body are, if it can have a second one."""
        if not function:
            return None
        begin, end = self.at(function["span"]["start"]), self.at(function["span"]["end"])
        open_ones, brace = [], None
        for token in TOKEN.finditer(self.text, begin, end):
            if token[0] == "{":
                open_ones.append(token.start())
            elif token[0] == "}":
                brace = open_ones.pop()
        # What is computed by the compiler cannot ask for a number.
        if brace is None or re.search(r"\bconst\s+(unsafe\s+)?fn\b", self.text[begin:brace]):
            return None
        return brace, end - 1

    def changed(self, number, begin=0, end=None):
        """The text from `begin` to `end` with one change."""
        change = self.changes[number]
        first, last = self.at(change["span"]["start"]), self.at(change["span"]["end"])
        return self.text[begin:first] + change["replacement"] + self.text[last:end]

    def switched(self, without=()):
        """The text with all changes but those `without`."""
        self.pieces, self.line, self.places, self.functions = [], 1, {}, []
        bodies = [(body, [number for number in numbers if number not in without])
                  for body, numbers in sorted(self.bodies.items())]
        self.put_all(0, len(self.text), [(body, numbers) for body, numbers in bodies if numbers])
        return "".join(self.pieces)

    def put(self, text):
        self.pieces.append(text)
        self.line += text.count("\n")

    def put_all(self, begin, end, bodies):
        """The text from `begin` to `end`, and in it the bodies, which may lie in one another."""
        while bodies:
            (brace, last), numbers = bodies[0]
            inside = [body for body in bodies[1:] if body[0][0] < last]
            bodies = bodies[1 + len(inside):]
            self.put(self.text[begin:brace + 1])
            first = self.line
            before, after = self.boxed(self.changes[numbers[0]]["function"]["return_type"] or "")
            self.put("match crate::switched() {\n")
            for number in numbers:
                start = self.line
                self.put(f"{number} => {before}{{ {self.changed(number, brace + 1, last)} }}{after}\n")
                self.places[number] = (start, self.line - 1)
            self.put(f"_ => {before}{{")
            self.put_all(brace + 1, last, inside)
            self.put(f"}}{after}\n}}")
            self.functions.append((first, self.line, numbers))
            begin = last
        self.put(self.text[begin:end])

    @staticmethod
    def boxed(returned):
        """What an `impl` is in bodies of several types."""
        found = re.fullmatch(r"-> impl (.*)", returned)
        if not found:
            return "", ","
        bounds = found[1] if "+" in found[1] else f"{found[1]} + '_"
        return "Box::new(", f") as Box<dyn {bounds}>,"

    def whose(self, line):
        """The change that a line of the result belongs to, or all of its function."""
        holding = [(last - first, {number}) for number, (first, last) in self.places.items() if first <= line <= last]
        holding += [(last - first, set(numbers)) for first, last, numbers in self.functions if first <= line <= last]
        return min(holding, key=lambda place: place[0], default=(0, set()))[1]
