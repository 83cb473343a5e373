#include "memory.hpp"

#include "sys/sys.hpp"

#include <dmaflow/fd.hpp>

#include <cerrno>
#include <charconv>
#include <limits>
#include <optional>

#include <fcntl.h>

namespace dmaflow::detail {
namespace {

/// MemAvailable in bytes; nullopt if it cannot be read.
std::optional<std::uint64_t> available_memory() {
  const Fd file = Fd::adopt(sys::open("/proc/meminfo", O_RDONLY));
  if (!file) return std::nullopt;
  char storage[512];  // it is the third line
  const ssize_t length = sys::read(file.get(), storage, sizeof storage);
  if (length <= 0) return std::nullopt;
  const std::string_view text(storage, static_cast<std::size_t>(length));
  constexpr std::string_view key = "MemAvailable:";
  const auto found = text.find(key);
  if (found == std::string_view::npos) return std::nullopt;
  const auto digits = text.find_first_not_of(' ', found + key.size());
  if (digits == std::string_view::npos) return std::nullopt;
  std::uint64_t kibibytes = 0;
  const auto parsed = std::from_chars(text.data() + digits, text.data() + text.size(), kibibytes);
  return parsed.ec == std::errc{} ? std::optional(kibibytes * 1024) : std::nullopt;
}

}  // namespace

Result<void> check_memory(std::span<const std::uint64_t> object_sizes, std::uint32_t count,
                          std::string_view allocator) {
  std::uint64_t bytes = 0;
  for (const std::uint64_t size : object_sizes) {
    std::uint64_t all = 0;
    if (__builtin_mul_overflow(size, count, &all) || __builtin_add_overflow(bytes, all, &bytes)) {
      bytes = std::numeric_limits<std::uint64_t>::max();
      break;
    }
  }
  const auto available = available_memory();
  if (!available || bytes <= *available) return {};
  return std::unexpected(Error::os(ENOMEM, "allocate", allocator)
                             .detail("%llu bytes are asked for in all, and the machine has %llu available",
                                     static_cast<unsigned long long>(bytes),
                                     static_cast<unsigned long long>(*available)));
}

}  // namespace dmaflow::detail
