"""One forward pass, its captures and its edits; and the tape that carries them out, whatever the backend.

A backend only has to call `tape(site, tensor)` when it computes a site and to put back what it gets. What is captured, which edits
act, in which order, and whether each really acted is decided here, once, so that two backends cannot differ in it.

An edit or a capture that never happened raises: nobody's library gives that for free, and it is the field's commonest silent error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .batch import Batch
from .edit import Edit
from .errors import CaptureEmpty, EditDidNotFire, UnknownSite, hint
from .shapes import Float
from .site import Site


@dataclass
class Fired:
    """How often an edit acted."""

    calls: int = 0
    rows: int = 0
    positions: int = 0


@dataclass(frozen=True, eq=False)
class Run:
    """What one forward pass gave."""

    batch: Batch
    logits: Tensor | None
    """[batch, pos, vocab]; None where the pass stopped before the unembedding."""
    captured: dict[Site, Tensor] = field(default_factory=dict)
    """Captured tensors, as they are *after* the edits at their own site."""
    fired: dict[Edit, Fired] = field(default_factory=dict)

    def __getitem__(self, site: "Site | str") -> Tensor:
        site = Site.parse(site)
        if site not in self.captured:
            have = [kept.name for kept in self.captured]
            raise UnknownSite(
                f"{site.name!r} was not captured in this run.{hint(site.name, have)} Add it to `capture`."
            )
        return self.captured[site]

    @property
    def last_logits(self) -> Float[Tensor, "batch vocab"]:
        """Logits at each row's last real token."""
        if self.logits is None:
            raise CaptureEmpty("this run stopped before the logits. Run it again without `stop_after`.")
        rows = range(len(self.batch))
        return self.logits[list(rows), self.batch.last]

    def __repr__(self) -> str:
        rows, width = self.batch.tokens.shape
        edits = f", {len(self.fired)} edits fired" if self.fired else ""
        return f"Run({rows} × {width} tokens, captured {[site.name for site in self.captured]}{edits})"


class Tape:
    """Carries captures and edits through one forward pass. A backend hooks `tape.sites` and calls `tape(site, tensor)`."""

    def __init__(
        self, batch: Batch, capture: Sequence[Site] = (), edits: Sequence[Edit] = (), *, grad: bool = False
    ) -> None:
        self.batch, self.capture, self.edits, self.grad = batch, list(capture), list(edits), grad
        self.captured: dict[Site, Tensor] = {}
        self.fired = {edit: Fired() for edit in edits}
        self._where = {edit: edit.where(batch) for edit in edits}
        self._count = {edit: (int(w.any(dim=1).sum()), int(w.sum())) for edit, w in self._where.items()}
        self._mid: dict[int, Tensor] = {}
        self._by_site: dict[Site, list[Edit]] = {}
        for edit in edits:
            self._by_site.setdefault(edit.site, []).append(edit)

    @property
    def sites(self) -> list[Site]:
        """Sites that must be hooked, in forward order.

        The residual stream between attention and MLP is a sum that no module outputs: hooking the norm that reads it would edit the
        MLP's input but not the stream itself. So an edit there is carried out as a change of what attention adds, and so is a
        capture with gradients, which would miss the way past the MLP.
        """
        need = {*self.capture, *self._by_site}
        for site in [site for site in need if site.kind == "resid_mid" and (self.grad or site in self._by_site)]:
            need |= {Site("resid_pre", site.layer), Site("attn_out", site.layer)}
            need -= {site} if self.grad or site not in self.capture else set()
        return sorted(need, key=lambda site: site.order)

    @property
    def edited_sites(self) -> set[Site]:
        """Sites whose tensor may come back changed."""
        mids = {site for site in self._by_site if site.kind == "resid_mid"}
        return (set(self._by_site) - mids) | {Site("attn_out", site.layer) for site in mids}

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """Give `x` back, edited if edits say so; the very same object if nothing acts here.

        With `grad`, the graph begins at the first site that is hooked: a model whose parameters are frozen still has gradients.
        """
        if self.grad and not x.requires_grad and x.is_floating_point():
            x = x.detach().requires_grad_()
        if site.kind != "resid_mid":  # its edits were already carried out at attn_out
            x = self._edit(site, x)
        middle, layer = Site("resid_mid", site.layer), site.layer or 0
        through = middle in self._by_site or (self.grad and middle in self.capture)
        if through and site.kind == "attn_out":
            x = carried(self._mid[layer], x, lambda stream: self._edit(middle, stream))
        if site in self.capture:
            x = self._keep(site, x)
        if through and site.kind == "resid_pre":
            self._mid[layer] = x
        elif through and self.grad and site.kind == "attn_out" and middle in self.capture:
            before = self._mid[layer]
            stream = self._keep(middle, before + x)
            # what attention adds, as the difference of the two streams: the same value to the last bit, but the gradient goes
            # through the captured stream
            x = x.detach() + (stream - stream.detach()) - (before - before.detach())
        return x

    def _keep(self, site: Site, x: Tensor) -> Tensor:
        if self.grad:
            x = x.view_as(
                x
            )  # another object, so that the backend puts it back and the gradient of the logits passes through it
        self.captured[site] = x if self.grad else x.detach()
        return x

    def finish(self, logits: Tensor | None) -> Run:
        """Check that everything that was asked for happened, and hand over the run."""
        for site in self.capture:
            if site not in self.captured:
                raise CaptureEmpty(
                    f"nothing was captured at {site}: the forward pass never reached it. Report this checkpoint."
                )
        check_fired(self.fired)
        if logits is not None and not self.grad:
            logits = logits.detach()
        return Run(self.batch, logits, self.captured, self.fired)

    def _edit(self, site: Site, x: Tensor) -> Tensor:
        for edit in self._by_site.get(site, ()):
            rows, positions = self._count[edit]
            if not positions:
                continue
            x = edit.apply(x, self._where[edit].to(x.device))
            fired = self.fired[edit]
            fired.calls += 1
            fired.rows += rows
            fired.positions += positions
        return x


def carried(before: Tensor, added: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """What must be added to `before` so that the sum becomes `edit(before + added)`.

    An ablated stream must be exactly zero: rounding noise of 1e-8 would be blown up to size 1 by the norm that reads it. And where
    the edit changes nothing, what is added stays bit for bit. Gradients flow as through the plain difference.
    """
    stream = before + added
    new = edit(stream)
    if new is stream:
        return added
    exact = torch.where(new == stream, added, new - before)
    if not exact.requires_grad:
        return exact
    smooth = added + (new - stream)
    return smooth + (exact - smooth).detach()


def check_fired(fired: dict[Edit, Fired]) -> None:
    """Raise `EditDidNotFire` for the first edit that acted nowhere and was not allowed to."""
    for edit, count in fired.items():
        if count.positions == 0 and not edit.may_not_fire:
            raise EditDidNotFire(
                f"the edit «{edit.describe()}» changed nothing: no such position, or the site was never reached. "
                "Check the positions, or build it with `may_not_fire=True` if that is intended."
            )
