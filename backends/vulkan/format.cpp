// DRM's format names list the components of a little-endian word from its highest bits down; Vulkan's list bytes in
// memory, or with _PACK those of a word from its highest bits down. Sources: drm_fourcc.h; Vulkan specification,
// "Compatible Formats of Planes" and "Packed Formats".
#include <dmaflow/vulkan.hpp>

#include <algorithm>

namespace dmaflow::vulkan {
namespace {

struct Row {
  PixelFormat drm;
  VkFormat vulkan = VK_FORMAT_UNDEFINED;
};

constexpr PixelFormat code(const char (&text)[5]) noexcept {
  return PixelFormat::of(text[0], text[1], text[2], text[3]);
}

// Of two formats with the same VkFormat, the one with alpha is first: from_vulkan() returns that one.
constexpr Row table[] = {
    {formats::argb8888, VK_FORMAT_B8G8R8A8_UNORM},
    {formats::xrgb8888, VK_FORMAT_B8G8R8A8_UNORM},
    {formats::abgr8888, VK_FORMAT_R8G8B8A8_UNORM},
    {formats::xbgr8888, VK_FORMAT_R8G8B8A8_UNORM},
    {code("AR30"), VK_FORMAT_A2R10G10B10_UNORM_PACK32},
    {formats::xrgb2101010, VK_FORMAT_A2R10G10B10_UNORM_PACK32},
    {code("AB30"), VK_FORMAT_A2B10G10R10_UNORM_PACK32},
    {code("XB30"), VK_FORMAT_A2B10G10R10_UNORM_PACK32},
    {code("AB48"), VK_FORMAT_R16G16B16A16_UNORM},
    {code("XB48"), VK_FORMAT_R16G16B16A16_UNORM},
    {code("AB4H"), VK_FORMAT_R16G16B16A16_SFLOAT},
    {code("XB4H"), VK_FORMAT_R16G16B16A16_SFLOAT},
    {formats::rgb565, VK_FORMAT_R5G6B5_UNORM_PACK16},
    {code("BG16"), VK_FORMAT_B5G6R5_UNORM_PACK16},
    {formats::rgb888, VK_FORMAT_B8G8R8_UNORM},
    {formats::bgr888, VK_FORMAT_R8G8B8_UNORM},
    {formats::r8, VK_FORMAT_R8_UNORM},
    {code("R16 "), VK_FORMAT_R16_UNORM},
    {code("GR88"), VK_FORMAT_R8G8_UNORM},
    {code("GR32"), VK_FORMAT_R16G16_UNORM},
    {formats::nv12, VK_FORMAT_G8_B8R8_2PLANE_420_UNORM},
    {formats::nv16, VK_FORMAT_G8_B8R8_2PLANE_422_UNORM},
    {formats::yuv420, VK_FORMAT_G8_B8_R8_3PLANE_420_UNORM},
    {code("YU16"), VK_FORMAT_G8_B8_R8_3PLANE_422_UNORM},
    {code("YU24"), VK_FORMAT_G8_B8_R8_3PLANE_444_UNORM},
    {formats::p010, VK_FORMAT_G10X6_B10X6R10X6_2PLANE_420_UNORM_3PACK16},
    {code("P210"), VK_FORMAT_G10X6_B10X6R10X6_2PLANE_422_UNORM_3PACK16},
    {formats::yuyv, VK_FORMAT_G8B8G8R8_422_UNORM},
    {formats::uyvy, VK_FORMAT_B8G8R8G8_422_UNORM},
};

}  // namespace

VkFormat to_vulkan(PixelFormat format) noexcept {
  const auto* const found = std::ranges::find(table, format, &Row::drm);
  return found == std::end(table) ? VK_FORMAT_UNDEFINED : found->vulkan;
}

PixelFormat from_vulkan(VkFormat format) noexcept {
  if (format == VK_FORMAT_UNDEFINED) return {};
  const auto* const found = std::ranges::find(table, format, &Row::vulkan);
  return found == std::end(table) ? PixelFormat{} : found->drm;
}

}  // namespace dmaflow::vulkan
