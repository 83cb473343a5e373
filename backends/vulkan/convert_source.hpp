// How a source is read, depending on the device: plane by plane, or all planes as one image by a sampler.
#pragma once

#include "convert_math.hpp"
#include "impl.hpp"

namespace dmaflow::vulkan {

/// How the frames of one stream are read.
struct Reading {
  SourceFormat source{};  ///< what the shader reads; by a sampler, one image
  Sampling by = Sampling::planes;
  FormatSupport whole{};     ///< by a sampler: what the device can do with the image
  bool is_cr_first = false;  ///< by a sampler: its red and blue are exchanged
};

/// The best of the allowed ways. Errors: ENOTSUP (says for each why it does not work), EINVAL (an odd or too large
/// size).
[[nodiscard]] Result<Reading> find_reading(const Device::Impl& device, const Layout& layout, Sampling allowed);

/// The n-th of the source.plane_count images that the shader reads of a buffer. Errors: as Device::import_image().
[[nodiscard]] Result<Image> import_source(Device::Impl& device, const Buffer& buffer, const Reading& reading,
                                          std::uint32_t n);

}  // namespace dmaflow::vulkan
