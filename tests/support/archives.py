"""Archives of models, as they are downloaded."""

import io
import tarfile


def archive_of(prefix: str = "", content: bytes = b"abc") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        variables = ("variables/", "variables/variables.index", "variables/variables.data-00000-of-00001")
        for name in (*filter(None, [prefix]), "saved_model.pb", *variables):
            member = tarfile.TarInfo(name if name == prefix else prefix + name)
            member.type, member.size = (tarfile.DIRTYPE, 0) if name.endswith("/") else (tarfile.REGTYPE, len(content))
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
