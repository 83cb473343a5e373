#include <dmaflow/udmabuf.hpp>

#include "access_help.hpp"
#include "memory.hpp"
#include "sys/sys.hpp"
#include "uapi/memfd.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <limits>
#include <optional>
#include <span>

#include <fcntl.h>
#include <linux/udmabuf.h>
#include <unistd.h>

namespace dmaflow::udmabuf {
namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1024} * 1024;
constexpr std::uint64_t largest = std::numeric_limits<off_t>::max() - mebibyte;  // still fits off_t when rounded up

std::optional<std::uint64_t> read_limit(const std::string& path) {
  const Fd file = Fd::adopt(sys::open(path.c_str(), O_RDONLY));
  if (!file) return std::nullopt;
  char text[32];
  const ssize_t length = sys::read(file.get(), text, sizeof text);
  std::uint64_t value = 0;
  if (length <= 0 || std::from_chars(text, text + length, value).ec != std::errc{}) return std::nullopt;
  return value;
}

std::uint64_t whole_pages(std::uint64_t size) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return (size + page - 1) / page * page;
}

/// Shared memory that is sealed against shrinking, as the driver requires.
Result<Fd> sealed_memfd(std::uint64_t size) {
  constexpr const char* device = "udmabuf";
  int number = sys::memfd_create("dmaflow", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (number == -EINVAL) number = sys::memfd_create("dmaflow", MFD_CLOEXEC | MFD_ALLOW_SEALING);  // before Linux 6.3
  if (number < 0) return std::unexpected(Error::os(-number, "memfd_create", device));
  Fd memfd = Fd::adopt(number);
  if (const int result = sys::ftruncate(memfd.get(), static_cast<off_t>(size)); result < 0) {
    return std::unexpected(
        Error::os(-result, "ftruncate", device).detail("to %llu bytes", static_cast<unsigned long long>(size)));
  }
  if (const int result = sys::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK); result < 0) {
    return std::unexpected(Error::os(-result, "fcntl(F_ADD_SEALS)", device));
  }
  return memfd;
}

}  // namespace

Result<std::unique_ptr<Allocator>> Allocator::open(const Options& options) {
  const int fd = sys::open(options.device.c_str(), O_RDWR);
  if (fd >= 0) return std::unique_ptr<Allocator>(new Allocator(options, Fd::adopt(fd)));
  Error error = Error::os(-fd, "open", options.device);
  if (fd == -ENOENT || fd == -ENODEV || fd == -ENXIO) {
    error.detail("the driver is not there; load it as root (modprobe udmabuf), or use a kernel with CONFIG_UDMABUF");
  } else if (fd == -EACCES || fd == -EPERM) {
    error.detail("%s", detail::access_help(options.device, "SUBSYSTEM==\"misc\", KERNEL==\"udmabuf\"").c_str());
  }
  return std::unexpected(error);
}

Result<std::vector<Buffer>> Allocator::allocate(const Request& request) {
  if (const auto checked = check_request(request, name()); !checked) return std::unexpected(checked.error());
  if (request.constraints.contiguous) {
    return std::unexpected(
        Error::os(EINVAL, "allocate", name()).detail("contiguous memory is asked for, and a memfd's is not"));
  }
  const auto layout = linear_layout(request, name());
  if (!layout) return std::unexpected(layout.error());

  const auto sizes = layout->object_sizes(request.constraints);
  if (const auto checked = detail::check_memory(sizes, request.count, name()); !checked) {
    return std::unexpected(checked.error());
  }
  return detail::make_buffers(*layout, sizes, request.count, {.origin = "udmabuf"},
                              [this](std::uint64_t size) { return allocate_object(size); });
}

Result<Fd> Allocator::allocate_object(std::uint64_t size) const {
  if (size > largest) return std::unexpected(refused(EINVAL, size));
  const std::uint64_t rounded = whole_pages(size);
  const auto memfd = sealed_memfd(rounded);
  if (!memfd) return std::unexpected(memfd.error());
  udmabuf_create create{};
  create.memfd = static_cast<__u32>(memfd->get());
  create.flags = UDMABUF_FLAGS_CLOEXEC;
  create.size = rounded;
  const int fd = sys::ioctl(fd_.get(), UDMABUF_CREATE, &create);
  if (fd < 0) return std::unexpected(refused(-fd, rounded));
  return Fd::adopt(fd);  // it holds the memory's pages; the memfd is not needed any more
}

Error Allocator::refused(int code, std::uint64_t size) const {
  Error error = Error::os(code, "UDMABUF_CREATE", name());
  const auto bytes = static_cast<unsigned long long>(size);
  const std::string parameter = options_.parameters + "/size_limit_mb";
  const auto limit = read_limit(parameter);
  if (code == ENOTTY) {
    error.detail("%s is not udmabuf", options_.device.c_str());
  } else if (limit && size / mebibyte + (size % mebibyte != 0 ? 1 : 0) > *limit) {
    error.detail("%llu bytes are over the driver's size_limit_mb of %llu; raise it as root (echo %llu > %s)", bytes,
                 static_cast<unsigned long long>(*limit), bytes / mebibyte + 1, parameter.c_str());
  } else {
    error.detail("asked for %llu bytes", bytes);
  }
  return error;
}

}  // namespace dmaflow::udmabuf
