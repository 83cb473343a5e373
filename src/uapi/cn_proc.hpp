// include/uapi/linux/cn_proc.h: what is missing in the headers of Linux 6.1.
#pragma once

#include <linux/cn_proc.h>
#include <linux/types.h>

namespace dmaflow::uapi {

/// Linux 6.6: what LISTEN may carry instead of the bare operation.
struct ProcInput {
  __u32 mcast_op;
  __u32 event_type;  ///< of PROC_EVENT_*; 0 = all
};

}  // namespace dmaflow::uapi
