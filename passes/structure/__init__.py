"""Structure that goes: factors of low rank, blocks dropped or shared, channels of the residual stream sliced."""
