// udmabuf: ordinary shared memory (a sealed memfd) as dma-bufs, through /dev/udmabuf (since kernel 4.20).
//
// The fallback if no heap may be opened: /dev/udmabuf usually belongs to the group kvm. Memory is cached, zeroed and
// not contiguous. The driver limits one dma-buf to size_limit_mb (64 until kernel 7.3, which has no limit unless the
// administrator sets one). Each object is one memfd, so the driver's list_limit, which counts the memfds in one
// dma-buf, is never reached. Source: include/uapi/linux/udmabuf.h.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow::udmabuf {

struct Options {
  std::string device = "/dev/udmabuf";
  std::string parameters = "/sys/module/udmabuf/parameters";  ///< where the driver reports its limits
};

/// Allocates LINEAR and opaque buffers, each object rounded up to whole pages. Use from one thread at a time.
class Allocator final : public dmaflow::Allocator {
 public:
  /// Errors: ENOENT (the error says how to load the driver), EACCES (it names the group that may), EMFILE.
  [[nodiscard]] static Result<std::unique_ptr<Allocator>> open(const Options& options = {});

  /// "udmabuf".
  [[nodiscard]] std::string_view name() const noexcept override { return "udmabuf"; }
  [[nodiscard]] MemoryTraits traits() const noexcept override { return {.cached = true}; }

  /// Errors: EINVAL (as check_request() and linear_layout() say; contiguous memory requested; an object over
  /// size_limit_mb, which the error names with how to raise it), ENOMEM (also if the machine does not have that much
  /// memory available), EMFILE, ENOTTY (the file is not udmabuf), those of Buffer::create().
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

 private:
  Allocator(Options options, Fd fd) : options_(std::move(options)), fd_(std::move(fd)) {}
  [[nodiscard]] Result<Fd> allocate_object(std::uint64_t size) const;
  [[nodiscard]] Error refused(int code, std::uint64_t size) const;

  Options options_;
  Fd fd_;
};

}  // namespace dmaflow::udmabuf
