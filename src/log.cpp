#include "log.hpp"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <mutex>

namespace dmaflow {
namespace {

struct Target {
  LogHook hook = nullptr;
  void* user = nullptr;
};

// Without a hook, which is the usual case, only the flag is read. Hook and user are a pair, so the lock guards them.
std::atomic<bool> listening{false};
std::mutex target_lock;
Target target;

Target current_target() noexcept {
  const std::lock_guard lock(target_lock);
  return target;
}

}  // namespace

void set_log_hook(LogHook hook, void* user) noexcept {
  const std::lock_guard lock(target_lock);
  target = {hook, user};
  listening.store(hook != nullptr, std::memory_order_release);
}

namespace detail {

void log(LogLevel level, const char* format, ...) noexcept {
  if (!listening.load(std::memory_order_acquire)) return;
  const Target to = current_target();
  if (to.hook == nullptr) return;

  char text[512];
  std::va_list arguments;
  va_start(arguments, format);
  const int length = std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length >= 0) to.hook(level, text, to.user);
}

}  // namespace detail
}  // namespace dmaflow
