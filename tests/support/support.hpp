// Shared by many tests: a way to make the n-th system call fail, and leak checks from outside the library.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/error.hpp>

#include <atomic>
#include <concepts>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace dmaflow::test {

/// Whether an error's message contains these words.
inline bool mentions(const Error& error, std::string_view words) {
  return error.message().find(words) != std::string::npos;
}

/// Makes the n-th call (counted from 1) that matches fail with an errno; counts all calls that match. It is in effect
/// during its lifetime.
class FailNth : public sys::Hook {
 public:
  /// @p name: "ioctl", "mmap", ...; empty = every call. @p request: only this ioctl; 0 = every one.
  FailNth(std::size_t nth, int error, std::string name = {}, unsigned long request = 0);
  ~FailNth() override;
  int before(const sys::Call& call) noexcept override;
  [[nodiscard]] std::size_t calls() const noexcept { return calls_; }
  [[nodiscard]] bool fired() const noexcept { return calls_ >= nth_; }

 private:
  std::size_t nth_;
  int error_;
  std::string name_;
  unsigned long request_;
  std::atomic<std::size_t> calls_{0};
};

/// Counts calls and fails none.
class CountCalls : public FailNth {
 public:
  explicit CountCalls(std::string name = {}, unsigned long request = 0)
      : FailNth(~std::size_t{0}, 0, std::move(name), request) {}
};

/// The process's open descriptors with what they point to ("3 -> /dmabuf:"), from /proc/self/fd.
[[nodiscard]] std::set<std::string> open_fds();
/// Lines of /proc/self/maps that map a dma-buf or a video buffer.
[[nodiscard]] std::vector<std::string> device_mappings();
/// Live dma-bufs in the whole kernel, from debugfs dma_buf/bufinfo (needs root; -1 if it cannot be read).
[[nodiscard]] long live_dma_bufs();

/// Checks at the end of a scope that the descriptors, the device mappings and (within a second) the kernel's live
/// dma-bufs are the same as at its beginning.
class LeakCheck {
 public:
  LeakCheck();
  ~LeakCheck();
  LeakCheck(const LeakCheck&) = delete;
  LeakCheck& operator=(const LeakCheck&) = delete;

 private:
  std::set<std::string> fds_;
  std::vector<std::string> mappings_;
  long dma_bufs_;
};

/// The value of a Result; fails the test with the error's message if there is none.
template <typename T>
T must(Result<T> result, const char* what = "") {
  if (!result) {
    ADD_FAILURE() << what << ": " << result.error().message();
    std::abort();
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Asserts that a Result failed with this errno; otherwise prints its actual outcome.
template <typename T>
::testing::AssertionResult fails_with(const Result<T>& result, int code) {
  if (result) return ::testing::AssertionFailure() << "it succeeded";
  if (result.error().code() != code) return ::testing::AssertionFailure() << result.error().message();
  return ::testing::AssertionSuccess();
}

/// Reports a fact about code that is not ours: how a kernel driver, the kernel or Mesa behaved. Such facts change with
/// every update of a distribution, so no test fails because of them. tests/run compares those of a run with the record
/// (tests/integration/observed) and prints the changes; tests/observed writes a new record.
/// @p fact names what was tried, in one line without ": "; the same on every run. @p page: the document that states the
/// fact, or "" for none.
void observe(std::string_view fact, std::string_view value, std::string_view page = {});
/// A template, so that a string literal is not converted to bool.
void observe(std::string_view fact, std::same_as<bool> auto value, std::string_view page = {}) {
  observe(fact, value ? std::string_view("yes") : std::string_view("no"), page);
}

/// "DRM_IOCTL_PRIME_FD_TO_HANDLE ENODEV": the call that was refused and its errno, as a value to observe().
[[nodiscard]] std::string outcome(const Error& error);

/// True inside the lab, where every device must exist and nothing may be skipped.
[[nodiscard]] bool in_lab();

}  // namespace dmaflow::test
