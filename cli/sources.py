"""Sources that a command was asked for by name."""

from collections.abc import Sequence

from pipeline.manifest import Manifest, ManifestError
from pipeline.nearest import hint


def check_sources(manifests: Sequence[Manifest], names: Sequence[str]) -> None:
    """Raises `ManifestError` where one of `names` is the name of no source."""
    known = sorted({source.name for manifest in manifests for source in manifest.sources})
    for name in sorted(set(names) - set(known)):
        raise ManifestError(f"expected sources among {', '.join(known) or 'none'}, found {name!r}{hint(name, known)}")
