import jax
import jax.numpy as jnp

from simclr_jax import parallel
from simclr_jax.tools.program import array_bytes, collectives, cost

# Lines as the TPU's compiler writes them.
TEXT = """
  %all-gather.8 = f32[512,128]{1,0:T(8,128)S(1)} all-gather(%x), channel_id=112, dimensions={0}
  %all-gather.9 = f32[512,128]{1,0:T(8,128)S(1)} all-gather(%y), channel_id=112, dimensions={0}
  %ar.1 = (f32[64]{0:T(128)S(1)}, bf16[2,3]{0:T(256)}, f32[]{:T(128)}) all-reduce(%a, %b), to_apply=%r
  %ag = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), dimensions={0}
  %cp = (u8[7]{0}, u8[7]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  %done = f32[16,8]{1,0} all-gather-done(%ag)
  %rs = bf16[5]{0} reduce-scatter(%x), dimensions={0}
  %fusion = f32[8]{0} fusion(%all-reduce), calls=%all-reduce-like
"""  # noqa: E501


def test_collectives_are_found_with_what_results():
    # The second of the first channel is a piece of the first.
    assert collectives(TEXT) == [
        ('all-gather', [('f32', (512, 128))]),
        ('all-reduce', [('f32', (64,)), ('bf16', (2, 3)), ('f32', ())]),
        ('all-gather', [('f32', (16, 8))]),
        ('collective-permute', [('u8', (7,))]),
        ('reduce-scatter', [('bf16', (5,))]),
    ]
    assert array_bytes('bf16', (2, 3)) == 12


def test_cost_of_a_matrix_product_over_four_devices():
    mesh = parallel.make_mesh(jax.devices()[:4])
    rows = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=parallel.batch_sharding(mesh))
    program = jax.jit(lambda x: x.T @ x, out_shardings=parallel.replicated(mesh)).lower(rows)
    counted = cost(program.compile())
    assert 2 * 32 * 16 * 32 <= counted['flops'] < 1.2 * 2 * 32 * 16 * 32  # 16 rows a device
    assert counted['collective_bytes']['all-reduce'] == 4 * 32 * 32
    assert counted['collective_bytes']['all-to-all'] == 0
    assert counted['memory'] >= 4 * (16 * 32 + 32 * 32)
    assert counted['bytes'] >= 4 * (16 * 32 + 32 * 32)
