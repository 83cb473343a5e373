// Memory made, imported, lent and accessed: each the library's way and in raw calls.
#pragma once

#include "memory_machine.hpp"
#include "operation.hpp"

#include <span>
#include <vector>

namespace bench {

// What the operations use lives as long as they do, but for the machine, which the caller keeps.

/// allocate/MAKER/SIZE: made, and given back. Ways: dmaflow, raw, and "raw, checked": with what the library checks.
[[nodiscard]] std::vector<Operation> allocations(const Machine& machine, std::span<const Sized> sizes);

/// step/MAKER/SIZE/STEP: where the time of raw calls goes. alloc: made, not given back. map. touch: the first write to
/// every page of a mapping. zero: the whole of it written once more, by memset. unmap, of touched pages. close: given
/// back.
[[nodiscard]] std::vector<Operation> allocation_steps(const Machine& machine, std::span<const Sized> sizes);

/// import/DEVICE/first: an import and its end. import/DEVICE/cached: asked for again.
[[nodiscard]] std::vector<Operation> imports(const Machine& machine);

/// hold/pool: acquired and let go. hold/set: lent, let go and taken back.
[[nodiscard]] std::vector<Operation> holds(const Machine& machine);

/// access/MAKER/map, sync, unmap. access/MAKER/sync: on a mapping that is kept. Of 1080p.
[[nodiscard]] std::vector<Operation> accesses(const Machine& machine);

/// read/MAKER, write/MAKER: every byte of a 1080p frame, on a mapping that is kept. "mapped anew" is the library's for
/// a program that keeps none. read/malloc and write/malloc stand beside.
[[nodiscard]] std::vector<Operation> bandwidths(const Machine& machine);

}  // namespace bench
