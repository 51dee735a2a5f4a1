"""Reads a page as a browser would, for the tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Fails on tags that do not balance and on addresses that lead out of the file."""

    EMPTY = ('br', 'meta', 'img', 'path', 'rect', 'image')

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags, self.ids = [], {}, [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ('script', 'link', 'iframe', 'object')
        for name, value in attributes.items():
            assert not name.startswith('on')
            if name in ('src', 'href', 'action', 'xlink:href'):
                assert value.startswith('data:image/png;base64,')
        if 'id' in attributes:
            assert attributes['id'] not in self.ids
            self.ids.add(attributes['id'])
        self.tags.append((tag, attributes))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]
