// Access: how a buffer is used, in the terms by which the kernel orders accesses.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>

namespace dmaflow {

/// A reader waits for the writers before it; a writer waits for all accesses before it, including readers. read_write
/// is ordered like write. DMA_BUF_SYNC_READ and DMA_BUF_SYNC_WRITE, include/uapi/linux/dma-buf.h.
enum class Access : std::uint8_t { read, write, read_write };

}  // namespace dmaflow
