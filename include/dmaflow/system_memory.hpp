// System memory: dma-bufs in ordinary memory, from whichever of the kernel's devices works on this machine.
//
//     const auto memory = dmaflow::open_system_memory();
//     if (memory) pipeline.offer(**memory);
//
// It is found by trying: the dma-heap "system" first, then udmabuf, which ordinary users can open more often (the group
// kvm usually owns it). Both give cached memory that is not contiguous; name() says which it is ("heap:system",
// "udmabuf"). For programs that link dmaflow::dmaflow, or both dmaflow::heap and dmaflow::udmabuf where both were
// built.
//
// Kernel interfaces: include/uapi/linux/dma-heap.h, include/uapi/linux/udmabuf.h.
#pragma once

#include <dmaflow/config.hpp>

#include <dmaflow/allocator.hpp>
#ifdef DMAFLOW_HAS_HEAP
#include <dmaflow/heap.hpp>
#endif
#ifdef DMAFLOW_HAS_UDMABUF
#include <dmaflow/udmabuf.hpp>
#endif

#include <memory>
#include <utility>
#include <vector>

namespace dmaflow {

/// The caller owns it; use from one thread at a time. Errors: those of heap::Allocator::open() and
/// udmabuf::Allocator::open() (ENOENT, EACCES, EMFILE), or of their allocate() (ENOMEM), of the one tried last, with
/// the reasons of both and what to do in the detail; ENOTSUP if dmaflow was built without both.
[[nodiscard]] inline Result<std::unique_ptr<Allocator>> open_system_memory() {
  std::vector<Result<std::unique_ptr<Allocator>>> opened;
#ifdef DMAFLOW_HAS_HEAP
  opened.emplace_back(heap::Allocator::open("system"));
#endif
#ifdef DMAFLOW_HAS_UDMABUF
  opened.emplace_back(udmabuf::Allocator::open());
#endif
  return first_that_works(std::move(opened));
}

}  // namespace dmaflow
