// include/uapi/linux/dma-buf.h: what is missing in headers older than Linux 6.0.
#pragma once

#include <linux/dma-buf.h>
#include <linux/types.h>

namespace dmaflow::uapi {

/// struct dma_buf_export_sync_file and struct dma_buf_import_sync_file, which are the same.
struct dma_buf_sync_file {  // NOLINT(readability-identifier-naming): the kernel's name
  __u32 flags;              // DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE
  __s32 fd;
};

}  // namespace dmaflow::uapi

#ifndef DMA_BUF_IOCTL_EXPORT_SYNC_FILE
#define DMA_BUF_IOCTL_EXPORT_SYNC_FILE _IOWR(DMA_BUF_BASE, 2, struct dmaflow::uapi::dma_buf_sync_file)  // Linux 6.0
#define DMA_BUF_IOCTL_IMPORT_SYNC_FILE _IOW(DMA_BUF_BASE, 3, struct dmaflow::uapi::dma_buf_sync_file)   // Linux 6.0
#endif
