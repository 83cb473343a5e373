// Memory chosen by usage and modifier, as an Allocator.
#pragma once

#include "bo.hpp"

#include <dmaflow/allocator.hpp>

namespace dmaflow::gbm {

struct GbmFile;

/// Belongs to the device's thread.
class Allocation final : public Allocator {
 public:
  explicit Allocation(GbmFile& file) noexcept : file_(file) {}
  [[nodiscard]] std::string_view name() const noexcept override { return "gbm"; }
  /// GBM reports none of them.
  [[nodiscard]] MemoryTraits traits() const noexcept override { return {}; }
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

 private:
  [[nodiscard]] Result<Buffer> allocate_one(const Request& request);
  GbmFile& file_;
};

}  // namespace dmaflow::gbm
