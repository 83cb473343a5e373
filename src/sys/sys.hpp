// The one seam: every system call the library makes goes through here.
//
// Calls return the result, or -errno. EINTR is retried where the call may simply be made again (ioctl, read, write,
// open); wait() keeps its deadline across it. Tests set a Hook to fail the n-th call or to count them; without one, the
// seam costs one load.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>

namespace dmaflow::sys {

/// Which call is about to be made.
struct Call {
  const char* name;       ///< "ioctl", "mmap", ...
  int fd;                 ///< -1 where the call has none
  unsigned long request;  ///< of an ioctl, else 0
  const void* argument;   ///< of an ioctl that takes a pointer, else nullptr
};

/// Looked at before each call; a test's. close() and munmap() are counted but always made.
class Hook {
 public:
  static constexpr int proceed = 0;   ///< make the call
  static constexpr int pretend = -1;  ///< do not make it, and succeed with 0 (is_dma_buf: yes); for unit tests only
  virtual ~Hook() = default;
  /// proceed, pretend, or an errno to fail with.
  virtual int before(const Call& call) noexcept = 0;
};

/// Sets the hook of the process, or nullptr.
void set_hook(Hook* hook) noexcept;

int open(const char* path, int flags, mode_t mode = 0) noexcept;  // adds O_CLOEXEC
void close(int fd) noexcept;
int ioctl(int fd, unsigned long request, void* argument) noexcept;
/// An ioctl whose argument is a number, not a pointer.
int ioctl_value(int fd, unsigned long request, unsigned long argument) noexcept;
/// What mmap gave.
struct Mapping {
  void* address = nullptr;
  int error = 0;  ///< errno, 0 where it worked
};
Mapping mmap(std::size_t length, int protection, int flags, int fd, off_t offset) noexcept;
int munmap(void* address, std::size_t length) noexcept;
/// Page faults of this thread that needed no input, so far.
long minor_faults() noexcept;
ssize_t read(int fd, void* buffer, std::size_t size) noexcept;
ssize_t write(int fd, const void* buffer, std::size_t size) noexcept;
int fstat(int fd, struct stat* out) noexcept;
off_t size_of(int fd) noexcept;  // lseek(SEEK_END), which dma-bufs answer with their size
/// 1 or 0 by the file system's magic number (DMA_BUF_MAGIC, since kernel 5.3), or -errno.
int is_dma_buf(int fd) noexcept;
int dup(int fd) noexcept;  // F_DUPFD_CLOEXEC
int fcntl(int fd, int command, long argument) noexcept;
int ftruncate(int fd, off_t size) noexcept;
int memfd_create(const char* name, unsigned flags) noexcept;
int eventfd(unsigned flags) noexcept;
int socket(int domain, int type, int protocol) noexcept;  // adds SOCK_CLOEXEC
int bind(int fd, const void* address, std::size_t size) noexcept;
int signalfd(const sigset_t& signals) noexcept;       // nonblocking, CLOEXEC
int block_signals(const sigset_t& signals) noexcept;  // for the calling thread, beside those it blocks already

/// ppoll until something happens or the deadline: the number of ready entries, 0 at the deadline, or -errno.
/// EINTR-transparent. A deadline that has passed only looks.
int wait(std::span<pollfd> fds, Deadline deadline) noexcept;
/// The same for one descriptor: ready events, 0 at the deadline, or -errno.
int wait(int fd, short events, Deadline deadline) noexcept;

}  // namespace dmaflow::sys
