// Errors are values. Every fallible call of dmaflow returns Result<T>; nothing throws.
//
// An Error says what was tried ("VIDIOC_QBUF"), on which device ("/dev/video0 (vivid)"), what the
// kernel answered (an errno) and, where we know, what would help. Building one allocates nothing, so
// that an error on the hot path or under memory pressure is as cheap and safe as any return value.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace dmaflow {

/// Where an error code comes from, and so how to read Error::code().
enum class ErrorDomain : std::uint8_t {
  os,      ///< an errno value, from the kernel or from one of our own checks
  vulkan,  ///< a VkResult
};

/// What failed. A plain value of fixed size: copying it, moving it and building it allocate nothing.
/// Text longer than the fields is cut, never overrun. Not synchronised; each copy is independent.
class Error {
 public:
  /// An error with errno @p code. @p operation must have static storage (a string literal).
  static Error os(int code, const char* operation, std::string_view device = {}) noexcept;

  /// An error with VkResult @p code. @p operation must have static storage (a string literal).
  static Error vulkan(int code, const char* operation, std::string_view device = {}) noexcept;

  // Not trivial, so that a Result that holds a value does not copy unused space for an error with it.
  Error(const Error& other) noexcept;
  Error& operator=(const Error& other) noexcept;

  /// Sets the detail from a printf format: the reason, and what would help.
  [[gnu::format(printf, 2, 3)]] Error& detail(const char* format, ...) noexcept;
  /// Sets the device's name, for a layer that knows it better than the layer that failed.
  Error& device(std::string_view name) noexcept;

  [[nodiscard]] ErrorDomain domain() const noexcept { return domain_; }
  /// The errno or VkResult; never 0 in domain os.
  [[nodiscard]] int code() const noexcept { return code_; }
  /// The code's name: "ENODEV", "VK_ERROR_DEVICE_LOST"; empty if it has none.
  [[nodiscard]] std::string_view code_name() const noexcept;
  /// The system call, ioctl or library operation that failed, e.g. "DRM_IOCTL_MODE_ATOMIC".
  [[nodiscard]] std::string_view operation() const noexcept { return operation_; }
  /// The device or file concerned, e.g. "/dev/video0 (vivid)"; may be empty.
  [[nodiscard]] std::string_view device() const noexcept { return device_; }
  /// The reason in words and what would help; may be empty.
  [[nodiscard]] std::string_view detail() const noexcept { return detail_; }

  /// One line for people: "device: operation: reason (errno name): detail". Allocates.
  [[nodiscard]] std::string message() const;

 private:
  Error() = default;

  ErrorDomain domain_ = ErrorDomain::os;
  int code_ = 0;
  const char* operation_ = "";
  char device_[96] = {};
  char detail_[416] = {};
};

/// The value, or the Error that explains why there is none.
template <typename T>
using Result = std::expected<T, Error>;

}  // namespace dmaflow
