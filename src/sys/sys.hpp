// The system call seam: every system call of the library goes through here.
//
// Calls return the result, or -errno. After EINTR, calls that can simply be repeated are retried (ioctl, read, write,
// open); wait() keeps its deadline across retries. Tests set a Hook to fail the n-th call or to count calls; without
// one, the seam costs one load.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

namespace dmaflow::sys {

/// Which call is about to be made.
struct Call {
  const char* name;       ///< "ioctl", "mmap", ...
  int fd;                 ///< -1 if the call has none
  unsigned long request;  ///< of an ioctl; for a poll, the number of descriptors; else 0
  const void* argument;   ///< of an ioctl that takes a pointer, else nullptr
};

/// Called before each system call; set by tests. close() and munmap() are counted but always made.
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

// The calls of the hot path are inline as long as no hook is set and nothing interrupts them.
namespace detail {
extern std::atomic<Hook*> current_hook;
void hooked_close(int fd) noexcept;
int hooked_ioctl(int fd, unsigned long request, void* argument) noexcept;
int hooked_dup(int fd) noexcept;
int hooked_fcntl(int fd, int command, long argument) noexcept;
/// To be called after a first try that failed, while errno still has its value.
int retry_ioctl(int fd, unsigned long request, void* argument) noexcept;
int retry_fcntl(int fd, int command, long argument) noexcept;
}  // namespace detail

inline void close(int fd) noexcept {
  if (detail::current_hook.load(std::memory_order_acquire) != nullptr) [[unlikely]] {
    return detail::hooked_close(fd);
  }
  ::close(fd);  // never retried: Linux has closed it even if it returns EINTR
}
inline int ioctl(int fd, unsigned long request, void* argument) noexcept {
  if (detail::current_hook.load(std::memory_order_acquire) != nullptr) [[unlikely]] {
    return detail::hooked_ioctl(fd, request, argument);
  }
  const int result = ::ioctl(fd, request, argument);
  return result >= 0 ? result : detail::retry_ioctl(fd, request, argument);
}
/// For the shortest paths, which keep nothing for a second try: true if the first try succeeded. Otherwise call
/// ioctl(), which returns the error; so not for calls that change anything even if they fail.
inline bool ioctl_once(int fd, unsigned long request, void* argument) noexcept {
  return detail::current_hook.load(std::memory_order_acquire) == nullptr && ::ioctl(fd, request, argument) >= 0;
}
inline int fcntl(int fd, int command, long argument) noexcept {
  if (detail::current_hook.load(std::memory_order_acquire) != nullptr) [[unlikely]] {
    return detail::hooked_fcntl(fd, command, argument);
  }
  const int result = ::fcntl(fd, command, argument);
  return result >= 0 ? result : detail::retry_fcntl(fd, command, argument);
}
inline int dup(int fd) noexcept {  // F_DUPFD_CLOEXEC
  if (detail::current_hook.load(std::memory_order_acquire) != nullptr) [[unlikely]] {
    return detail::hooked_dup(fd);
  }
  const int result = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return result >= 0 ? result : detail::retry_fcntl(fd, F_DUPFD_CLOEXEC, 3);
}
/// An ioctl whose argument is a number, not a pointer.
int ioctl_value(int fd, unsigned long request, unsigned long argument) noexcept;
/// The result of mmap().
struct Mapping {
  void* address = nullptr;
  int error = 0;  ///< errno; 0 on success
};
Mapping mmap(std::size_t length, int protection, int flags, int fd, off_t offset) noexcept;
int munmap(void* address, std::size_t length) noexcept;
/// The number of page faults of this thread so far that needed no I/O.
long minor_faults() noexcept;
ssize_t read(int fd, void* buffer, std::size_t size) noexcept;
ssize_t write(int fd, const void* buffer, std::size_t size) noexcept;
/// The length of the link's text, which is not terminated, or -errno.
ssize_t readlink(const char* path, char* buffer, std::size_t size) noexcept;
int fstat(int fd, struct stat* out) noexcept;
off_t size_of(int fd) noexcept;  // lseek(SEEK_END), which returns the size of a dma-buf
/// 1 if the file system's magic number is DMA_BUF_MAGIC (since kernel 5.3), 0 if it is not, or -errno.
int is_dma_buf(int fd) noexcept;
int ftruncate(int fd, off_t size) noexcept;
int memfd_create(const char* name, unsigned flags) noexcept;
int eventfd(unsigned flags) noexcept;
int socket(int domain, int type, int protocol) noexcept;  // adds SOCK_CLOEXEC
int bind(int fd, const void* address, std::size_t size) noexcept;
/// What send_many() and receive_many() pass to a hook as Call::argument. A hook that pretends sets `result` to the
/// number of datagrams.
struct Batch {
  mmsghdr* messages = nullptr;
  unsigned count = 0;
  int result = 0;
};
/// recvmmsg without waiting: the number of datagrams received, or -errno. An error after the first datagram is returned
/// by the next call.
int receive_many(int fd, std::span<mmsghdr> messages) noexcept;
/// sendmmsg: the number of datagrams sent, or -errno if not even the first was.
int send_many(int fd, std::span<mmsghdr> messages) noexcept;
int setsockopt(int fd, int level, int name, const void* value, std::size_t size) noexcept;
/// The size of the value returned, or -errno. @p size: the space at @p value. A hook gets the value as Call::argument
/// and the name as Call::request; a hook that pretends fills all of the value.
int getsockopt(int fd, int level, int name, void* value, std::size_t size) noexcept;
/// A descriptor (CLOEXEC) that is readable once the process has ended, including all its threads.
int pidfd_open(pid_t pid, unsigned flags) noexcept;
/// Reads entries of a directory as the kernel packs them (linux_dirent64). Returns the number of bytes, 0 at the end,
/// or -errno.
ssize_t getdents(int fd, void* buffer, std::size_t size) noexcept;
int epoll_create() noexcept;  // CLOEXEC
int epoll_ctl(int fd, int operation, int target, std::uint32_t events, std::uint64_t data) noexcept;
int epoll_look(int fd, std::span<epoll_event> out) noexcept;  // without waiting
int timerfd_create() noexcept;                                // CLOCK_MONOTONIC, nonblocking, CLOEXEC
/// Makes @p fd readable at the deadline; nullptr: never.
int timerfd_set(int fd, const Deadline* deadline) noexcept;
ssize_t random(void* buffer, std::size_t size) noexcept;  // getrandom
int signalfd(const sigset_t& signals) noexcept;           // nonblocking, CLOEXEC
int block_signals(const sigset_t& signals) noexcept;      // for the calling thread, in addition to those blocked now
/// Sets the calling thread's name to the first 15 bytes of @p name.
int name_thread(const char* name) noexcept;

/// The time as ppoll() and timerfd_settime() take it. @p span: not negative.
timespec timespec_of(std::chrono::nanoseconds span) noexcept;
/// The time of the kernel's last tick, at most 10 ms ago: half the cost of the exact time.
std::chrono::steady_clock::time_point coarse_now() noexcept;
/// Polls until something happens or the deadline comes. Returns the number of ready entries, 0 at the deadline (or up
/// to 11 ms later, if it was more than a second away), or -errno. Continues after EINTR. Does not wait if the deadline
/// has passed.
int wait(std::span<pollfd> fds, Deadline deadline) noexcept;
/// The same for one descriptor: ready events, 0 at the deadline, or -errno.
int wait(int fd, short events, Deadline deadline) noexcept;

}  // namespace dmaflow::sys
