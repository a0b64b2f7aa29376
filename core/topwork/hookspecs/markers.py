"""Markers of hook specifications (`hookspec`) and implementations (`hookimpl`), and the version of the contract."""

from __future__ import annotations

import pluggy

#: version of the contract between topwork and plugins: hooks, `Task`, `Stage`, `Base`, `Metric`. It rises when
#: something is taken away or changes its meaning. A package names the one it was written for: `TOPWORK_CONTRACT = 1`.
CONTRACT = 1

hookspec = pluggy.HookspecMarker("topwork")
hookimpl = pluggy.HookimplMarker("topwork")
