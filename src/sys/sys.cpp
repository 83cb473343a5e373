#include "sys/sys.hpp"

#include <cerrno>
#include <ctime>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <unistd.h>

// The build sets both on 32 bit (cmake/DmaflowTargets.cmake): dma-bufs may exceed 2 GiB, and times may be after 2038.
static_assert(sizeof(off_t) == 8 && sizeof(time_t) == 8, "-D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64");

namespace dmaflow::sys {
namespace {

/// Hook::proceed, Hook::pretend, or the errno a test wants instead of the call.
int before(const char* name, int fd = -1, unsigned long request = 0, const void* argument = nullptr) noexcept {
  Hook* hook = detail::current_hook.load(std::memory_order_acquire);
  return hook == nullptr ? Hook::proceed : hook->before({name, fd, request, argument});
}

/// What a call that was not made returns.
int unmade(int answer) noexcept { return answer == Hook::pretend ? 0 : -answer; }

template <typename Function>
auto retried(Function call) noexcept -> decltype(call()) {
  while (true) {
    const auto result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

}  // namespace

namespace detail {

std::atomic<Hook*> current_hook{nullptr};

void hooked_close(int fd) noexcept {
  before("close", fd);
  ::close(fd);
}

int hooked_ioctl(int fd, unsigned long request, void* argument) noexcept {
  if (const int error = before("ioctl", fd, request, argument)) return unmade(error);
  return retried([&] { return ::ioctl(fd, request, argument); });
}

int hooked_dup(int fd) noexcept {
  if (const int error = before("dup", fd)) return unmade(error);
  return retried([&] { return ::fcntl(fd, F_DUPFD_CLOEXEC, 3); });
}

int hooked_fcntl(int fd, int command, long argument) noexcept {
  if (const int error = before("fcntl", fd)) return unmade(error);
  return retried([&] { return ::fcntl(fd, command, argument); });
}

int retry_fcntl(int fd, int command, long argument) noexcept {
  if (errno != EINTR) return -errno;
  return retried([&] { return ::fcntl(fd, command, argument); });
}

int retry_ioctl(int fd, unsigned long request, void* argument) noexcept {
  if (errno != EINTR) return -errno;
  return retried([&] { return ::ioctl(fd, request, argument); });
}

}  // namespace detail

void set_hook(Hook* hook) noexcept { detail::current_hook.store(hook, std::memory_order_release); }

int open(const char* path, int flags, mode_t mode) noexcept {
  if (const int error = before("open")) return unmade(error);
  return retried([&] { return ::open(path, flags | O_CLOEXEC, mode); });
}

int ioctl_value(int fd, unsigned long request, unsigned long argument) noexcept {
  if (const int error = before("ioctl", fd, request)) return unmade(error);
  return retried([&] { return ::ioctl(fd, request, argument); });
}

Mapping mmap(std::size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  if (const int error = before("mmap", fd)) return {nullptr, error > 0 ? error : ENODEV};
  void* address = ::mmap(nullptr, length, protection, flags, fd, offset);
  return address == MAP_FAILED ? Mapping{nullptr, errno} : Mapping{address, 0};
}

int munmap(void* address, std::size_t length) noexcept {
  before("munmap");
  return ::munmap(address, length) == 0 ? 0 : -errno;
}

long minor_faults() noexcept {
  struct rusage usage{};
  before("getrusage");
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt;
}

ssize_t read(int fd, void* buffer, std::size_t size) noexcept {
  if (const int error = before("read", fd)) return unmade(error);
  return retried([&] { return ::read(fd, buffer, size); });
}

ssize_t write(int fd, const void* buffer, std::size_t size) noexcept {
  if (const int error = before("write", fd)) return unmade(error);
  return retried([&] { return ::write(fd, buffer, size); });
}

ssize_t readlink(const char* path, char* buffer, std::size_t size) noexcept {
  if (const int error = before("readlink")) return unmade(error);
  return retried([&] { return ::readlink(path, buffer, size); });
}

int fstat(int fd, struct stat* out) noexcept {
  if (const int error = before("fstat", fd)) return unmade(error);
  return retried([&] { return ::fstat(fd, out); });
}

off_t size_of(int fd) noexcept {
  if (const int error = before("lseek", fd)) return unmade(error);
  return retried([&] { return ::lseek(fd, 0, SEEK_END); });
}

int is_dma_buf(int fd) noexcept {
  constexpr long magic = 0x444d4142;  // DMA_BUF_MAGIC, include/uapi/linux/magic.h
  if (const int answer = before("fstatfs", fd)) return answer == Hook::pretend ? 1 : -answer;
  struct statfs fs{};
  const int result = retried([&] { return ::fstatfs(fd, &fs); });
  return result < 0 ? result : static_cast<int>(fs.f_type == magic);
}

int ftruncate(int fd, off_t size) noexcept {
  if (const int error = before("ftruncate", fd)) return unmade(error);
  return retried([&] { return ::ftruncate(fd, size); });
}

int memfd_create(const char* name, unsigned flags) noexcept {
  if (const int error = before("memfd_create")) return unmade(error);
  return retried([&] { return ::memfd_create(name, flags); });
}

int eventfd(unsigned flags) noexcept {
  if (const int error = before("eventfd")) return unmade(error);
  return retried([&] { return ::eventfd(0, static_cast<int>(flags)); });
}

int signalfd(const sigset_t& signals) noexcept {
  if (const int error = before("signalfd")) return unmade(error);
  return retried([&] { return ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK); });
}

int block_signals(const sigset_t& signals) noexcept {
  if (const int error = before("pthread_sigmask")) return unmade(error);
  return -::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

int name_thread(const char* name) noexcept {
  if (const int error = before("prctl")) return unmade(error);
  return ::prctl(PR_SET_NAME, name) == 0 ? 0 : -errno;
}

int socket(int domain, int type, int protocol) noexcept {
  if (const int error = before("socket")) return unmade(error);
  return retried([&] { return ::socket(domain, type | SOCK_CLOEXEC, protocol); });
}

int bind(int fd, const void* address, std::size_t size) noexcept {
  if (const int error = before("bind", fd)) return unmade(error);
  return retried([&] { return ::bind(fd, static_cast<const sockaddr*>(address), static_cast<socklen_t>(size)); });
}

int receive_many(int fd, std::span<mmsghdr> messages) noexcept {
  Batch batch{.messages = messages.data(), .count = static_cast<unsigned>(messages.size())};
  if (const int error = before("recvmmsg", fd, 0, &batch)) return error == Hook::pretend ? batch.result : -error;
  return retried([&] { return ::recvmmsg(fd, batch.messages, batch.count, MSG_DONTWAIT, nullptr); });
}

int send_many(int fd, std::span<mmsghdr> messages) noexcept {
  Batch batch{.messages = messages.data(), .count = static_cast<unsigned>(messages.size())};
  if (const int error = before("sendmmsg", fd, 0, &batch)) return error == Hook::pretend ? batch.result : -error;
  return retried([&] { return ::sendmmsg(fd, batch.messages, batch.count, MSG_DONTWAIT); });
}

int setsockopt(int fd, int level, int name, const void* value, std::size_t size) noexcept {
  if (const int error = before("setsockopt", fd, static_cast<unsigned long>(name), value)) return unmade(error);
  return ::setsockopt(fd, level, name, value, static_cast<socklen_t>(size)) == 0 ? 0 : -errno;
}

int getsockopt(int fd, int level, int name, void* value, std::size_t size) noexcept {
  if (const int error = before("getsockopt", fd, static_cast<unsigned long>(name), value)) {
    return error == Hook::pretend ? static_cast<int>(size) : -error;
  }
  auto length = static_cast<socklen_t>(size);
  return ::getsockopt(fd, level, name, value, &length) == 0 ? static_cast<int>(length) : -errno;
}

int pidfd_open(pid_t pid, unsigned flags) noexcept {
  if (const int error = before("pidfd_open")) return unmade(error);
  return retried([&] { return static_cast<int>(::syscall(SYS_pidfd_open, pid, flags)); });
}

ssize_t getdents(int fd, void* buffer, std::size_t size) noexcept {
  if (const int error = before("getdents64", fd)) return unmade(error);
  return retried([&] { return static_cast<ssize_t>(::syscall(SYS_getdents64, fd, buffer, size)); });
}

int epoll_create() noexcept {
  if (const int error = before("epoll_create1")) return unmade(error);
  return retried([&] { return ::epoll_create1(EPOLL_CLOEXEC); });
}

int epoll_ctl(int fd, int operation, int target, std::uint32_t events, std::uint64_t data) noexcept {
  if (const int error = before("epoll_ctl", fd)) return unmade(error);
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  return retried([&] { return ::epoll_ctl(fd, operation, target, &event); });
}

int epoll_look(int fd, std::span<epoll_event> out) noexcept {
  if (const int error = before("epoll_wait", fd)) return unmade(error);
  return retried([&] { return ::epoll_wait(fd, out.data(), static_cast<int>(out.size()), 0); });
}

int timerfd_create() noexcept {
  if (const int error = before("timerfd_create")) return unmade(error);
  return retried([&] { return ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); });
}

int timerfd_set(int fd, const Deadline* deadline) noexcept {
  if (const int error = before("timerfd_settime", fd)) return unmade(error);
  itimerspec time{};
  if (deadline != nullptr) {
    time.it_value = timespec_of(deadline->remaining());
    // All zero would disarm the timer.
    if (time.it_value.tv_sec == 0 && time.it_value.tv_nsec == 0) time.it_value.tv_nsec = 1;
  }
  return retried([&] { return ::timerfd_settime(fd, 0, &time, nullptr); });
}

ssize_t random(void* buffer, std::size_t size) noexcept {
  if (const int error = before("getrandom")) return unmade(error);
  return retried([&] { return ::getrandom(buffer, size, 0); });
}

timespec timespec_of(std::chrono::nanoseconds span) noexcept {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(span);
  timespec result{};  // set member by member: tv_nsec is a long, with padding on 32 bit
  result.tv_sec = static_cast<decltype(result.tv_sec)>(seconds.count());
  result.tv_nsec = static_cast<decltype(result.tv_nsec)>((span - seconds).count());
  return result;
}

std::chrono::steady_clock::time_point coarse_now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::chrono::steady_clock::time_point(std::chrono::seconds(now.tv_sec) +
                                               std::chrono::nanoseconds(now.tv_nsec));
}

int wait(std::span<pollfd> fds, Deadline deadline) noexcept {
  using std::chrono::milliseconds;
  // ppoll() takes nanoseconds, but reads the clock once more to report how many of them are left.
  constexpr Deadline::Clock::duration fine = std::chrono::seconds(1);
  constexpr Deadline::Clock::duration most = std::chrono::hours(24);
  if (const int error = before("poll", fds.empty() ? -1 : fds.front().fd, fds.size())) return unmade(error);
  while (true) {
    const auto soon = coarse_now() + fine;
    int ready = 0;
    bool is_last = true;
    if (deadline.time() < soon) {
      const timespec time = timespec_of(deadline.remaining());
      ready = ::ppoll(fds.data(), fds.size(), &time, nullptr);
    } else {
      const auto left = deadline.time() - soon + fine;
      is_last = left < most;
      ready = ::poll(fds.data(), fds.size(),
                     static_cast<int>(std::chrono::ceil<milliseconds>(std::min(left, most)).count()));
    }
    if (ready > 0 || (ready == 0 && is_last)) return ready;
    if (ready < 0 && errno != EINTR) return -errno;
  }
}

int wait(int fd, short events, Deadline deadline) noexcept {
  pollfd one{.fd = fd, .events = events, .revents = 0};
  const int ready = wait(std::span(&one, 1), deadline);
  return ready > 0 ? one.revents : ready;
}

}  // namespace dmaflow::sys
