#include "allocator.hpp"

#include "fit.hpp"
#include "impl.hpp"

#include <array>
#include <cerrno>
#include <span>

namespace dmaflow::gbm {
namespace {

Result<void> check(const GbmFile& file, const Request& request) {
  if (auto alive = file.check_alive("allocate"); !alive) return alive;
  if (auto checked = check_request(request, file.name); !checked) return checked;
  const auto refuse = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "allocate", file.name).detail("%s", why));
  };
  const FormatInfo* info = format_info(request.format);
  if (info == nullptr || info->is_opaque)
    return refuse("GBM has no memory for bytes without rows, nor unknown formats");
  if (request.constraints.contiguous)
    return refuse("contiguous memory is asked for, and GBM does not tell whether its is");
  if (!are_alignments(request.constraints)) return refuse("alignments of strides and offsets are powers of two");
  return {};
}

std::array<std::uint64_t, max_planes> sizes_of(const Buffer& buffer) noexcept {
  std::array<std::uint64_t, max_planes> sizes{};
  for (std::uint32_t i = 0; i < buffer.object_count(); ++i) sizes[i] = buffer.size(i);
  return sizes;
}

}  // namespace

Result<std::vector<Buffer>> Allocation::allocate(const Request& request) {
  if (auto checked = check(file_, request); !checked) return std::unexpected(checked.error());
  std::vector<Buffer> buffers;
  buffers.reserve(request.count);
  for (std::uint32_t i = 0; i < request.count; ++i) {
    auto buffer = allocate_one(request);
    if (!buffer) return std::unexpected(buffer.error());
    if (!buffers.empty() && buffer->layout() != buffers.front().layout()) {
      return std::unexpected(file_.error(-EINVAL, "gbm_bo_create")
                                 .detail("the driver makes one buffer as %s and the next as %s",
                                         buffers.front().layout().describe().c_str(),
                                         buffer->layout().describe().c_str()));
    }
    buffers.push_back(std::move(*buffer));
  }
  return buffers;
}

// The driver chooses strides and sizes. If they do not meet the constraints, a larger bo may: it has longer rows, or
// more of them.
Result<Buffer> Allocation::allocate_one(const Request& request) {
  Size size = request.size;
  for (int attempt = 0;; ++attempt) {
    Result<Buffer> buffer = [&]() -> Result<Buffer> {
      GemRegistry::Session session(*file_.gem);
      const auto bo = create_bo(file_, request, size);
      if (!bo) return std::unexpected(bo.error());
      return export_bo(file_, *bo, request.format, request.size);
    }();
    if (!buffer) return buffer;
    const auto sizes = sizes_of(*buffer);
    const auto objects = std::span(sizes).first(buffer->object_count());
    auto misfit = misfit_of(buffer->layout(), objects, request.constraints);
    if (!misfit) return buffer;
    constexpr int most_attempts = 3;  // one for the rows' length, one for their number, one for what follows from both
    const auto larger = larger_size(buffer->layout(), objects, request.constraints, size);
    if (attempt + 1 == most_attempts || !larger) return std::unexpected(misfit->device(file_.name));
    size = *larger;
  }
}

}  // namespace dmaflow::gbm
