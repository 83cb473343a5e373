// Allocating, importing, lending and accessing memory, each with the library and in raw calls.
#pragma once

#include "memory_machine.hpp"
#include "operation.hpp"

#include <span>
#include <vector>

namespace bench {

// The operations own what they use, except for the machine, which must outlive them.

/// allocate/MAKER/SIZE: allocate and free. Ways: dmaflow, raw, and "raw, checked", which has the library's checks.
[[nodiscard]] std::vector<Operation> allocations(const Machine& machine, std::span<const Sized> sizes);

/// step/MAKER/SIZE/STEP: the steps of the raw calls. alloc: allocate, without freeing. map. touch: the first write to
/// every page of a mapping. zero: write all of it again, by memset. unmap, of touched pages. close: free.
[[nodiscard]] std::vector<Operation> allocation_steps(const Machine& machine, std::span<const Sized> sizes);

/// import/DEVICE/first: import a new buffer and end the import. import/DEVICE/cached: import it again.
[[nodiscard]] std::vector<Operation> imports(const Machine& machine);

/// hold/pool: acquire and release. hold/set: lend, release and take back.
[[nodiscard]] std::vector<Operation> holds(const Machine& machine);

/// access/MAKER/map, sync, unmap. access/MAKER/sync: on a kept mapping. The size is 1080p.
[[nodiscard]] std::vector<Operation> accesses(const Machine& machine);

/// read/MAKER, write/MAKER: access every byte of a 1080p frame on a kept mapping. The way "mapped anew" maps for each
/// access with the library. read/malloc and write/malloc are for comparison.
[[nodiscard]] std::vector<Operation> bandwidths(const Machine& machine);

}  // namespace bench
