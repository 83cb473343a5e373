// include/uapi/linux/sync_file.h: what is missing in the headers of Linux 6.1.
#pragma once

#include <linux/sync_file.h>
#include <linux/types.h>

namespace dmaflow::uapi {

struct sync_set_deadline {  // NOLINT(readability-identifier-naming): the kernel's name
  __u64 deadline_ns;        // CLOCK_MONOTONIC
  __u64 pad;
};

}  // namespace dmaflow::uapi

#ifndef SYNC_IOC_SET_DEADLINE
#define SYNC_IOC_SET_DEADLINE _IOW(SYNC_IOC_MAGIC, 5, struct dmaflow::uapi::sync_set_deadline)  // Linux 6.6
#endif
