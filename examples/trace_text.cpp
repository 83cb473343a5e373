#include "trace_text.hpp"

#include <algorithm>
#include <charconv>

#include <drm.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/sync_file.h>
#include <linux/udmabuf.h>
#include <linux/videodev2.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace measure {
namespace {

struct Named {
  std::uint64_t value;
  const char* name;
};

#define DMAFLOW_NAMED(x) \
  Named { static_cast<std::uint64_t>(x), #x }

constexpr Named ioctls[] = {DMAFLOW_NAMED(VIDIOC_QUERYCAP),
                            DMAFLOW_NAMED(VIDIOC_ENUM_FMT),
                            DMAFLOW_NAMED(VIDIOC_G_CTRL),
                            DMAFLOW_NAMED(VIDIOC_G_PARM),
                            DMAFLOW_NAMED(VIDIOC_G_FMT),
                            DMAFLOW_NAMED(VIDIOC_S_FMT),
                            DMAFLOW_NAMED(VIDIOC_TRY_FMT),
                            DMAFLOW_NAMED(VIDIOC_REQBUFS),
                            DMAFLOW_NAMED(VIDIOC_CREATE_BUFS),
                            DMAFLOW_NAMED(VIDIOC_QUERYBUF),
                            DMAFLOW_NAMED(VIDIOC_QBUF),
                            DMAFLOW_NAMED(VIDIOC_DQBUF),
                            DMAFLOW_NAMED(VIDIOC_EXPBUF),
                            DMAFLOW_NAMED(VIDIOC_STREAMON),
                            DMAFLOW_NAMED(VIDIOC_STREAMOFF),
                            DMAFLOW_NAMED(VIDIOC_DQEVENT),
                            DMAFLOW_NAMED(VIDIOC_SUBSCRIBE_EVENT),
                            DMAFLOW_NAMED(VIDIOC_S_PARM),
                            DMAFLOW_NAMED(VIDIOC_S_INPUT),
                            DMAFLOW_NAMED(VIDIOC_QUERY_DV_TIMINGS),
                            DMAFLOW_NAMED(VIDIOC_S_DV_TIMINGS),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_ATOMIC),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_SETCRTC),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_SETPLANE),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_PAGE_FLIP),
                            DMAFLOW_NAMED(DRM_IOCTL_WAIT_VBLANK),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_ADDFB),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_ADDFB2),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_RMFB),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_CREATE_DUMB),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_MAP_DUMB),
                            DMAFLOW_NAMED(DRM_IOCTL_MODE_DESTROY_DUMB),
                            DMAFLOW_NAMED(DRM_IOCTL_PRIME_FD_TO_HANDLE),
                            DMAFLOW_NAMED(DRM_IOCTL_PRIME_HANDLE_TO_FD),
                            DMAFLOW_NAMED(DRM_IOCTL_GEM_CLOSE),
                            DMAFLOW_NAMED(DRM_IOCTL_SYNCOBJ_CREATE),
                            DMAFLOW_NAMED(DMA_HEAP_IOCTL_ALLOC),
                            DMAFLOW_NAMED(SYNC_IOC_FILE_INFO),
                            DMAFLOW_NAMED(UDMABUF_CREATE),
                            DMAFLOW_NAMED(UDMABUF_CREATE_LIST),
                            DMAFLOW_NAMED(DMA_BUF_IOCTL_SYNC)};

constexpr Named syscalls[] = {
#ifdef SYS_poll
    {SYS_poll, "poll"},
#endif
#ifdef SYS_epoll_wait
    {SYS_epoll_wait, "epoll_wait"},
#endif
    {SYS_ppoll, "ppoll"},
    {SYS_epoll_pwait, "epoll_pwait"},
    {SYS_read, "read"},
    {SYS_write, "write"},
    {SYS_close, "close"},
    {SYS_openat, "openat"},
    {SYS_mmap, "mmap"},
    {SYS_munmap, "munmap"},
    {SYS_mprotect, "mprotect"},
    {SYS_brk, "brk"},
    {SYS_futex, "futex"},
    {SYS_madvise, "madvise"},
    {SYS_fcntl, "fcntl"},
    {SYS_dup, "dup"},
    {SYS_lseek, "lseek"},
    {SYS_pread64, "pread64"},
    {SYS_pwrite64, "pwrite64"},
    {SYS_readv, "readv"},
    {SYS_writev, "writev"},
    {SYS_splice, "splice"},
    {SYS_tee, "tee"},
    {SYS_vmsplice, "vmsplice"},
    {SYS_sendfile, "sendfile"},
    {SYS_fstat, "fstat"},
    {SYS_copy_file_range, "copy_file_range"},
    {SYS_clock_nanosleep, "clock_nanosleep"},
    {SYS_rt_sigprocmask, "rt_sigprocmask"},
    {SYS_restart_syscall, "restart_syscall"}};

template <std::size_t size>
std::string name_in(const Named (&table)[size], std::uint64_t value, const char* prefix) {
  const auto* found = std::ranges::find(table, value, &Named::value);
  return found != std::end(table) ? found->name : fmt::format("{} {:#x}", prefix, value);
}

}  // namespace

std::string call_name(std::int64_t number, std::uint64_t request) {
  if (number == SYS_ioctl) return "ioctl " + name_in(ioctls, request, "request");
  return name_in(syscalls, static_cast<std::uint64_t>(number), "number");
}

bool write_file(const std::filesystem::path& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  return ::close(fd) == 0 && written;
}

const char* find(const char* begin, const char* end, std::string_view text) {
  const auto* at = std::search(begin, end, text.begin(), text.end());
  return at == end ? nullptr : at;
}

std::int64_t thread_of(const char* begin, const char* end) {
  const char* bracket = find(begin, end, " [0");
  if (bracket == nullptr) return -1;
  const char* digits = bracket;
  while (digits > begin && digits[-1] == ' ') --digits;
  const char* last = digits;
  while (digits > begin && digits[-1] >= '0' && digits[-1] <= '9') --digits;
  std::int64_t thread = -1;
  std::from_chars(digits, last, thread);
  return thread;
}

double time_of(const char* begin, const char* event) {
  const char* start = event;
  while (start > begin && start[-1] != ' ') --start;
  double time = 0;
  std::from_chars(start, event, time);
  return time;
}

}  // namespace measure
