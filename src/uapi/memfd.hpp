// include/uapi/linux/memfd.h: what is missing in the headers of Linux 6.1.
#pragma once

#include <linux/memfd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3
#endif
