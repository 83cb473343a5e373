#include "errno_name.hpp"

#include <dmaflow/error.hpp>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace dmaflow {
namespace {

template <std::size_t size>
void store(char (&field)[size], std::string_view text) noexcept {
  const std::size_t length = std::min(text.size(), size - 1);
  if (length > 0) std::memmove(field, text.data(), length);  // the text may be part of the field itself
  field[length] = '\0';
}

/// The VkResults that devices return at run time; the core does not need Vulkan's headers for their names.
const char* vk_result_name(int code) noexcept {
  switch (code) {
    case 1:
      return "VK_NOT_READY";
    case 2:
      return "VK_TIMEOUT";
    case -1:
      return "VK_ERROR_OUT_OF_HOST_MEMORY";
    case -2:
      return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
    case -3:
      return "VK_ERROR_INITIALIZATION_FAILED";
    case -4:
      return "VK_ERROR_DEVICE_LOST";
    case -5:
      return "VK_ERROR_MEMORY_MAP_FAILED";
    case -6:
      return "VK_ERROR_LAYER_NOT_PRESENT";
    case -7:
      return "VK_ERROR_EXTENSION_NOT_PRESENT";
    case -8:
      return "VK_ERROR_FEATURE_NOT_PRESENT";
    case -9:
      return "VK_ERROR_INCOMPATIBLE_DRIVER";
    case -10:
      return "VK_ERROR_TOO_MANY_OBJECTS";
    case -11:
      return "VK_ERROR_FORMAT_NOT_SUPPORTED";
    case -13:
      return "VK_ERROR_UNKNOWN";
    case -1000072003:
      return "VK_ERROR_INVALID_EXTERNAL_HANDLE";
    case -1000158000:
      return "VK_ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT";
    default:
      return nullptr;
  }
}

std::string os_reason(int code) {
  const char* name = detail::errno_name(code);
  return name == nullptr ? "unknown error " + std::to_string(code) : detail::errno_text(code) + " (" + name + ")";
}

std::string vulkan_reason(int code) {
  const char* name = vk_result_name(code);
  return name != nullptr ? std::string(name) : "VkResult " + std::to_string(code);
}

}  // namespace

[[gnu::cold]] Error::Error(const Error& other) noexcept = default;
[[gnu::cold]] Error& Error::operator=(const Error& other) noexcept = default;

Error Error::os(int code, const char* operation, std::string_view device) noexcept {
  Error error;
  // The seam returns -errno, callers pass errno. An error is never "Success", no matter what a driver left in errno.
  error.code_ = code == 0 || code == INT_MIN ? EIO : std::abs(code);
  error.operation_ = operation == nullptr ? "" : operation;
  store(error.device_, device);
  return error;
}

Error Error::vulkan(int code, const char* operation, std::string_view device) noexcept {
  Error error = os(EIO, operation, device);
  error.domain_ = ErrorDomain::vulkan;
  error.code_ = code;
  return error;
}

Error& Error::detail(const char* format, ...) noexcept {
  char text[sizeof detail_];  // not formatted in place: an argument may be the old detail
  std::va_list arguments;
  va_start(arguments, format);
  if (std::vsnprintf(text, sizeof text, format, arguments) < 0) text[0] = '\0';
  va_end(arguments);
  store(detail_, text);
  return *this;
}

Error& Error::device(std::string_view name) noexcept {
  store(device_, name);
  return *this;
}

std::string_view Error::code_name() const noexcept {
  const char* const name = domain_ == ErrorDomain::os ? dmaflow::detail::errno_name(code_) : vk_result_name(code_);
  return name == nullptr ? std::string_view() : name;
}

std::string Error::message() const {
  std::string text;
  for (const std::string_view part : {device(), operation()}) {
    if (!part.empty()) text.append(part).append(": ");
  }
  text += domain_ == ErrorDomain::os ? os_reason(code_) : vulkan_reason(code_);
  if (!detail().empty()) text.append(": ").append(detail());
  return text;
}

}  // namespace dmaflow
