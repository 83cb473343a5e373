#include "convert_source.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::vulkan {
namespace {

constexpr const char* operation = "vulkan::Convert::check_input";

/// Formats with the same bytes but Cb and Cr exchanged: Vulkan has only those with Cb first.
struct Twin {
  PixelFormat cr_first;
  PixelFormat cb_first;
};

constexpr Twin twins[] = {
    {formats::nv21, formats::nv12},
    {PixelFormat::of('N', 'V', '6', '1'), formats::nv16},
    {formats::yvu420, formats::yuv420},
    {PixelFormat::of('Y', 'V', '1', '6'), PixelFormat::of('Y', 'U', '1', '6')},
    {PixelFormat::of('Y', 'V', '2', '4'), PixelFormat::of('Y', 'U', '2', '4')},
    {PixelFormat::of('Y', 'V', 'Y', 'U'), formats::yuyv},
    {PixelFormat::of('V', 'Y', 'U', 'Y'), formats::uyvy},
};

/// All planes as one image.
ImagePlan plan_whole(const Layout& layout) noexcept {
  const auto* const twin = std::ranges::find(twins, layout.format, &Twin::cr_first);
  return {.format = to_vulkan(twin == std::end(twins) ? layout.format : twin->cb_first),
          .extent = {layout.size.width, layout.size.height},
          .first_plane = 0,
          .plane_count = layout.plane_count,
          .usage = VK_IMAGE_USAGE_SAMPLED_BIT};
}

Result<Reading> by_planes(const Device::Impl& device, const Layout& layout, const SourceFormat& source) {
  for (std::uint32_t i = 0; i < source.plane_count; ++i) {
    auto plan = device.plan_plane(layout, source.planes[i], VK_IMAGE_USAGE_SAMPLED_BIT);
    if (!plan) {
      const std::string why(plan.error().detail());
      return std::unexpected(Error::os(ENOTSUP, operation, device.name).detail("%s", why.c_str()));
    }
    if (auto possible = device.can_import(layout, *plan); !possible) return std::unexpected(possible.error());
  }
  return Reading{.source = source, .by = Sampling::planes};
}

Result<Reading> by_sampler(const Device::Impl& device, const Layout& layout, const SourceFormat& source) {
  const auto refuse = [&](int code) { return Error::os(code, operation, device.name); };
  if (!device.sampler_ycbcr) {
    return std::unexpected(refuse(ENOTSUP).detail("the device, or how it was created, has no samplerYcbcrConversion"));
  }
  auto whole = device.can_import(layout, plan_whole(layout));
  if (!whole) return std::unexpected(whole.error());
  constexpr VkFormatFeatureFlags any_chroma =
      VK_FORMAT_FEATURE_MIDPOINT_CHROMA_SAMPLES_BIT | VK_FORMAT_FEATURE_COSITED_CHROMA_SAMPLES_BIT;
  if ((whole->features & any_chroma) == 0) {
    return std::unexpected(
        refuse(ENOTSUP).detail("the device's samplers have no Y'CbCr conversion for %s with modifier %s",
                               layout.format.name().c_str(), layout.modifier.name().c_str()));
  }
  if (layout.size.width % source.chroma_across != 0 || layout.size.height % source.chroma_down != 0) {
    return std::unexpected(refuse(EINVAL).detail("%ux%u is odd: images of such formats are whole chroma samples",
                                                 layout.size.width, layout.size.height));
  }
  Reading reading{.source = source, .by = Sampling::sampler, .whole = *whole};
  reading.source.plane_count = 1;
  reading.is_cr_first = std::ranges::find(twins, layout.format, &Twin::cr_first) != std::end(twins);
  return reading;
}

}  // namespace

Result<Reading> find_reading(const Device::Impl& device, const Layout& layout, Sampling allowed) {
  const auto source = source_format(layout.format);
  if (!source) {
    return std::unexpected(Error::os(ENOTSUP, operation, device.name)
                               .detail("%s cannot be read by the shader: YUV in 8 bits or P010's way, and RGB "
                                       "that Vulkan has, can",
                                       layout.format.name().c_str()));
  }
  if (source->kind == SourceKind::rgb) {
    if (auto whole = device.can_import(layout, plan_whole(layout)); !whole) return std::unexpected(whole.error());
    return Reading{.source = *source};
  }
  if (allowed == Sampling::planes) return by_planes(device, layout, *source);
  if (allowed == Sampling::sampler) return by_sampler(device, layout, *source);
  auto planes = by_planes(device, layout, *source);
  if (planes) return planes;
  auto sampler = by_sampler(device, layout, *source);
  if (sampler) return sampler;
  const auto text = [](const Error& error) { return std::string(error.detail()); };
  return std::unexpected(
      Error::os(ENOTSUP, operation, device.name)
          .detail("plane by plane: %s; by a sampler: %s", text(planes.error()).c_str(), text(sampler.error()).c_str()));
}

Result<Image> import_source(Device::Impl& device, const Buffer& buffer, const Reading& reading, std::uint32_t n) {
  const Layout& layout = buffer.layout();
  ImagePlan plan = plan_whole(layout);
  if (reading.source.kind != SourceKind::rgb && reading.by == Sampling::planes) {
    auto plane = device.plan_plane(layout, reading.source.planes[n], VK_IMAGE_USAGE_SAMPLED_BIT);
    if (!plane) return std::unexpected(plane.error());
    plan = *plane;
  }
  auto imported = device.import(buffer, plan);
  if (!imported) return std::unexpected(imported.error());
  return (*imported)->image;
}

}  // namespace dmaflow::vulkan
