// A bo: one allocation of libgbm, its chosen modifier, and the export of its planes.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/buffer.hpp>
#include <dmaflow/error.hpp>

#include <memory>

struct gbm_bo;

namespace dmaflow::gbm {

struct GbmFile;

struct BoDeleter {
  void operator()(gbm_bo* bo) const noexcept;
};
/// Made, used and destroyed with the file's GEM lock held.
using BoPointer = std::unique_ptr<gbm_bo, BoDeleter>;

struct Bo {
  BoPointer pointer;
  Modifier modifier;
};

/// One bo of @p size, with the best of the request's modifiers that the driver can make. Errors: EINVAL and those of
/// libgbm; the detail says what was tried.
[[nodiscard]] Result<Bo> create_bo(GbmFile& file, const Request& request, Size size);

/// The bo's planes as a buffer of @p size, which may be smaller than the bo. Every number from the driver is checked.
/// Errors: EINVAL, those of the export.
[[nodiscard]] Result<Buffer> export_bo(const GbmFile& file, const Bo& bo, PixelFormat format, Size size);

}  // namespace dmaflow::gbm
