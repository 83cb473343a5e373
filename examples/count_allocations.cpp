// Counts a program's heap allocations while its camera streams. Loaded before the program's libraries (LD_PRELOAD), so
// it sees every caller: the program, dmaflow, libdrm, the C++ runtime. dmaflow-measure loads it.
//
// The window: from the first successful VIDIOC_STREAMON to the first VIDIOC_STREAMOFF. When the process ends, one line
// of JSON goes to the file that DMAFLOW_ALLOCATIONS names. Nothing here allocates.
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/syscall.h>
#include <unistd.h>

// glibc's own entry points, which do not need dlsym (it would allocate).
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace {

enum class Window : std::uint8_t { before, open, after };
std::atomic<Window> window{Window::before};
std::atomic<std::uint64_t> allocations{0};
std::atomic<std::uint64_t> bytes{0};
std::atomic<std::uint64_t> frames{0};

void count(size_t size) noexcept {
  if (window.load(std::memory_order_relaxed) != Window::open) return;
  allocations.fetch_add(1, std::memory_order_relaxed);
  bytes.fetch_add(size, std::memory_order_relaxed);
}

[[gnu::destructor]] void report() noexcept {
  const char* path = std::getenv("DMAFLOW_ALLOCATIONS");
  if (path == nullptr) return;
  char line[192];
  const int length =
      std::snprintf(line, sizeof line,
                    R"({"streamed":%s,"frames":%llu,"allocations":%llu,"bytes":%llu})"
                    "\n",
                    window.load() == Window::before ? "false" : "true", static_cast<unsigned long long>(frames.load()),
                    static_cast<unsigned long long>(allocations.load()), static_cast<unsigned long long>(bytes.load()));
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  [[maybe_unused]] const auto written = ::write(fd, line, static_cast<size_t>(length));
  ::close(fd);
}

}  // namespace

extern "C" {

void* malloc(size_t size) {
  count(size);
  return __libc_malloc(size);
}

void* calloc(size_t number, size_t size) {
  count(number * size);
  return __libc_calloc(number, size);
}

void* realloc(void* old, size_t size) {
  count(size);
  return __libc_realloc(old, size);
}

void* memalign(size_t alignment, size_t size) {
  count(size);
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  count(size);
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) {
  count(size);
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) return EINVAL;
  *result = __libc_memalign(alignment, size);
  return *result == nullptr ? ENOMEM : 0;
}

// Detects the window's start and end, and counts its frames.
int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request == VIDIOC_STREAMOFF && window.load() == Window::open) window.store(Window::after);
  const auto result = static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
  if (result != 0) return result;
  if (request == VIDIOC_STREAMON && window.load() == Window::before) window.store(Window::open);
  if (request == VIDIOC_DQBUF && window.load() == Window::open) frames.fetch_add(1);
  return result;
}

}  // extern "C"
