// Access: what somebody does with a buffer, in the words in which the kernel orders accesses.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>

namespace dmaflow {

/// A reader waits for the writers before it; a writer waits for everybody before it, readers too. read_write is ordered
/// like write. DMA_BUF_SYNC_READ and DMA_BUF_SYNC_WRITE, include/uapi/linux/dma-buf.h.
enum class Access : std::uint8_t { read, write, read_write };

}  // namespace dmaflow
