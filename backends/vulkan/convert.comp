#version 450
#extension GL_EXT_samplerless_texture_functions : require

// Computes one pixel of the target: its position on the source, the value there, and that value in the target's
// colours.
//
// Positions are in pixels; the corner of the first pixel is at 0, so pixel i covers i to i + 1. Bilinear weights are
// computed here, not by a sampler: this is exact on every device, and correct for packed pairs of pixels. If WHOLE is
// defined, a sampler reads the image instead: only a sampler can read tiled and compressed YUV.

layout(local_size_x = 8, local_size_y = 8) in;

const int kind_rgb = 0;          // one image, colours unchanged
const int kind_semi_planar = 1;  // luma; pairs of chroma
const int kind_planar = 2;       // luma; chroma; chroma
const int kind_packed = 3;       // luma, chroma, luma, chroma: two pixels per texel

layout(constant_id = 0) const int kind = kind_rgb;
layout(constant_id = 1) const int chroma_across = 1;  // pixels per chroma sample
layout(constant_id = 2) const int chroma_down = 1;
layout(constant_id = 3) const bool scales = false;
layout(constant_id = 4) const bool has_overlay = false;

#ifdef WHOLE  // all planes as one image, combined by a sampler with a Y'CbCr conversion
layout(set = 0, binding = 0) uniform sampler2D whole;
#else
layout(set = 0, binding = 0) uniform texture2D plane0;
layout(set = 0, binding = 1) uniform texture2D plane1;
layout(set = 0, binding = 2) uniform texture2D plane2;
#endif
layout(set = 1, binding = 0) uniform writeonly image2D target;
layout(set = 1, binding = 1) uniform texture2D overlay;

layout(push_constant) uniform Parameters {
  vec4 to_red;  // factors for a sample (xyz), and a constant
  vec4 to_green;
  vec4 to_blue;
  vec4 steps;   // on the source, for one pixel to the right (xy) and one down (zw) on the target
  vec2 origin;  // position of the target's corner on the source
  ivec2 low;    // start of the source's visible part (included)
  ivec2 high;   // end of the source's visible part (excluded)
  ivec2 size;   // of the source
  ivec4 inside;   // the target's part that shows the source: left, top, right, bottom
  ivec4 picture;  // the overlay's position: left, top, right, bottom
} p;

#ifdef WHOLE

// The sampler does the work of luma_between() and chroma_between() below, as exactly as the device can. Its red is Cr,
// its blue Cb.
vec4 source_value(vec2 at) {
  at = clamp(at, vec2(p.low) + 0.5, vec2(p.high) - 0.5);
  return vec4(textureLod(whole, at / vec2(p.size), 0.0).gbr, 1.0);
}

#else

float luma(ivec2 at) {
  at = clamp(at, p.low, p.high - 1);
  if (kind != kind_packed) return texelFetch(plane0, at, 0).r;
  vec4 pair = texelFetch(plane0, ivec2(at.x >> 1, at.y), 0);
  return (at.x & 1) == 0 ? pair.r : pair.b;
}

vec2 chroma(ivec2 at) {
  ivec2 sub = ivec2(chroma_across, chroma_down);
  at = clamp(at, p.low / sub, (p.high + sub - 1) / sub - 1);
  if (kind == kind_semi_planar) return texelFetch(plane1, at, 0).rg;
  if (kind == kind_planar) return vec2(texelFetch(plane1, at, 0).r, texelFetch(plane2, at, 0).r);
  return texelFetch(plane0, at, 0).ga;
}

vec4 rgb(ivec2 at) { return texelFetch(plane0, clamp(at, p.low, p.high - 1), 0); }

float luma_between(vec2 at) {
  vec2 from = floor(at - 0.5);
  vec2 weight = at - 0.5 - from;
  ivec2 i = ivec2(from);
  float above = mix(luma(i), luma(i + ivec2(1, 0)), weight.x);
  float below = mix(luma(i + ivec2(0, 1)), luma(i + ivec2(1, 1)), weight.x);
  return mix(above, below, weight.y);
}

vec2 chroma_between(vec2 at) {
  vec2 from = floor(at - 0.5);
  vec2 weight = at - 0.5 - from;
  ivec2 i = ivec2(from);
  vec2 above = mix(chroma(i), chroma(i + ivec2(1, 0)), weight.x);
  if (chroma_down == 1 && !scales) return above;
  vec2 below = mix(chroma(i + ivec2(0, 1)), chroma(i + ivec2(1, 1)), weight.x);
  return mix(above, below, weight.y);
}

vec4 rgb_between(vec2 at) {
  vec2 from = floor(at - 0.5);
  vec2 weight = at - 0.5 - from;
  ivec2 i = ivec2(from);
  return mix(mix(rgb(i), rgb(i + ivec2(1, 0)), weight.x), mix(rgb(i + ivec2(0, 1)), rgb(i + ivec2(1, 1)), weight.x),
             weight.y);
}

// Chroma samples lie on every chroma_across-th column, and halfway between the rows that share them.
vec2 chroma_position(vec2 at) {
  return vec2((at.x - 0.5) / float(chroma_across) + 0.5, at.y / float(chroma_down));
}

vec4 source_value(vec2 at) {
  if (kind == kind_rgb) return scales ? rgb_between(at) : rgb(ivec2(floor(at)));
  float y = scales ? luma_between(at) : luma(ivec2(floor(at)));
  return vec4(y, chroma_between(chroma_position(at)), 1.0);
}

#endif

vec4 source_color(vec2 at) {
  vec4 value = source_value(at);
  vec4 sample_and_one = vec4(value.rgb, 1.0);
  return vec4(dot(p.to_red, sample_and_one), dot(p.to_green, sample_and_one), dot(p.to_blue, sample_and_one), value.a);
}

void main() {
  ivec2 here = ivec2(gl_GlobalInvocationID.xy);
  if (any(greaterThanEqual(here, imageSize(target)))) return;
  vec4 color = vec4(0.0, 0.0, 0.0, 1.0);
  if (all(greaterThanEqual(here, p.inside.xy)) && all(lessThan(here, p.inside.zw))) {
    vec2 center = vec2(here) + 0.5;
    color = clamp(source_color(p.origin + center.x * p.steps.xy + center.y * p.steps.zw), 0.0, 1.0);
  }
  if (has_overlay && all(greaterThanEqual(here, p.picture.xy)) && all(lessThan(here, p.picture.zw))) {
    vec4 over = texelFetch(overlay, here - p.picture.xy, 0);
    color = vec4(mix(color.rgb, over.rgb, over.a), color.a + over.a - color.a * over.a);
  }
  imageStore(target, here, color);
}
