// All of dmaflow: the core's concepts, one header each, and every backend that was built.
//
// For programs. A library that wants to be quick to compile includes the headers it needs.
#pragma once

#include <dmaflow/config.hpp>

#include <dmaflow/access.hpp>
#include <dmaflow/allocator.hpp>
#include <dmaflow/app_source.hpp>
#include <dmaflow/attachment.hpp>
#include <dmaflow/buffer.hpp>
#include <dmaflow/cancel.hpp>
#include <dmaflow/clock.hpp>
#include <dmaflow/copy_stage.hpp>
#include <dmaflow/cpu_access.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/dmabuf_source.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/fence.hpp>
#include <dmaflow/file_sink.hpp>
#include <dmaflow/format.hpp>
#include <dmaflow/frame.hpp>
#include <dmaflow/function.hpp>
#include <dmaflow/function_sink.hpp>
#include <dmaflow/gem.hpp>
#include <dmaflow/implicit_fences.hpp>
#include <dmaflow/layout.hpp>
#include <dmaflow/log.hpp>
#include <dmaflow/negotiate.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/pool.hpp>
#include <dmaflow/stats.hpp>
#include <dmaflow/stop.hpp>
#include <dmaflow/task_queue.hpp>
#include <dmaflow/thread_sink.hpp>

#ifdef DMAFLOW_HAS_HEAP
#include <dmaflow/heap.hpp>
#endif
#ifdef DMAFLOW_HAS_UDMABUF
#include <dmaflow/udmabuf.hpp>
#endif
#include <dmaflow/system_memory.hpp>
#ifdef DMAFLOW_HAS_SYNCOBJ
#include <dmaflow/timeline.hpp>
#endif
#ifdef DMAFLOW_HAS_GBM
#include <dmaflow/gbm.hpp>
#endif
#ifdef DMAFLOW_HAS_V4L2
#include <dmaflow/v4l2.hpp>
#endif
#ifdef DMAFLOW_HAS_KMS
#include <dmaflow/kms.hpp>
#endif
#if defined(DMAFLOW_HAS_VULKAN) && __has_include(<vulkan/vulkan_core.h>)
#include <dmaflow/vulkan.hpp>
#endif
#ifdef DMAFLOW_HAS_CONNECTOR
#include <dmaflow/connector.hpp>
#include <dmaflow/holder_watch.hpp>
#include <dmaflow/process.hpp>
#include <dmaflow/process_events.hpp>
#include <dmaflow/process_table.hpp>
#endif
