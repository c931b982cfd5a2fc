"""A strict reader of HTML: every element that begins must end, in order, and attributes stand once."""

from html.parser import HTMLParser

VOID = {"meta", "br", "img", "hr", "input", "link", "col"}


class Reader(HTMLParser):
    """Collects elements, the rows of tables and the visible text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.tables, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        assert len(names) == len(set(names)), f"<{name}> has an attribute twice"
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)
        if name == "table":
            self.tables.append([])
        if name == "tr":
            self.tables[-1].append([])
        if name in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, name):
        assert self.open, f"</{name}> closes nothing"
        assert self.open[-1] == name, f"</{name}> inside <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.words.append(text)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += text

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def of(self, name):
        """The attributes of all elements of a name."""
        return [attributes for element, attributes in self.elements if element == name]

    def table(self, *header):
        """The rows of the first table whose header begins so, as dictionaries."""
        for first, *rows in self.tables:
            if tuple(first[: len(header)]) == header:
                return [dict(zip(first, row)) for row in rows]
        raise AssertionError(f"no table begins with {header}: {[rows[0] for rows in self.tables]}")

    def resources(self):
        """Everything that a browser would load."""
        return [a[k] for _, a in self.elements for k in ("src", "href", "srcset", "data", "xlink:href") if k in a]
